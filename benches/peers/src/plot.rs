//! A plot as SVG: commits a second over clients, both on logarithmic scales.

use std::fmt::Write;

use crate::output::grouped;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 660.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 450.0;
const LEGEND_LINE: f64 = 24.0;
/// Colours that are told apart without seeing red and green (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888",
];

/// A name, and points of clients and commits a second.
pub type Line = (String, Vec<(f64, f64)>);

/// Where the values lie.
struct Scale {
    clients: (f64, f64),
    rates: (f64, f64),
}

impl Scale {
    fn of(lines: &[Line]) -> Self {
        let points = || lines.iter().flat_map(|(_, points)| points);
        let rates = || points().map(|(_, rate)| rate.log10());
        Scale {
            clients: (
                0.0,
                points()
                    .map(|(clients, _)| clients.log2())
                    .fold(1.0, f64::max),
            ),
            rates: (
                rates().fold(f64::INFINITY, f64::min).floor(),
                rates().fold(f64::NEG_INFINITY, f64::max).ceil(),
            ),
        }
    }

    fn x(&self, clients: f64) -> f64 {
        let (low, high) = self.clients;
        LEFT + (clients.log2() - low) / (high - low) * (RIGHT - LEFT)
    }

    fn y(&self, rate: f64) -> f64 {
        let (low, high) = self.rates;
        BOTTOM - (rate.log10() - low) / (high - low).max(1.0) * (BOTTOM - TOP)
    }
}

/// The plot. A line of one point is a reference and drawn across.
pub fn svg(lines: &[Line]) -> Result<String, std::fmt::Error> {
    let scale = Scale::of(lines);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<text x="{LEFT}" y="28" font-size="16">Durable commits a second, each client waiting for its own</text>
"#
    );
    axes(&mut svg, lines, &scale)?;
    // The fastest stands at the top of the legend, as it does at the right end of the plot.
    let mut order: Vec<usize> = (0..lines.len()).collect();
    let last = |line: usize| lines[line].1.last().map_or(0.0, |(_, rate)| *rate);
    order.sort_by(|a, b| last(*b).total_cmp(&last(*a)));
    for (place, line) in order.into_iter().enumerate() {
        draw(
            &mut svg,
            &lines[line],
            COLOURS[line % COLOURS.len()],
            place,
            &scale,
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn axes(svg: &mut String, lines: &[Line], scale: &Scale) -> std::fmt::Result {
    for power in scale.rates.0 as i32..=scale.rates.1 as i32 {
        let rate = 10_f64.powi(power);
        let (y, label) = (scale.y(rate), grouped(&format!("{rate:.0}")));
        writeln!(
            svg,
            r##"<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}" stroke="#dddddd"/>"##
        )?;
        writeln!(
            svg,
            r#"<text x="{}" y="{:.1}" text-anchor="end">{label}</text>"#,
            LEFT - 8.0,
            y + 4.0
        )?;
    }
    let longest = lines
        .iter()
        .map(|(_, points)| points)
        .max_by_key(|points| points.len());
    for (clients, _) in longest.into_iter().flatten() {
        let (x, label) = (scale.x(*clients), grouped(&format!("{clients:.0}")));
        writeln!(
            svg,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{BOTTOM}" stroke="#eeeeee"/>"##
        )?;
        writeln!(
            svg,
            r#"<text x="{x:.1}" y="{}" text-anchor="middle">{label}</text>"#,
            BOTTOM + 20.0
        )?;
    }
    let middle = (LEFT + RIGHT) / 2.0;
    writeln!(
        svg,
        r#"<text x="{middle}" y="{}" text-anchor="middle">clients</text>"#,
        BOTTOM + 44.0
    )
}

fn draw(
    svg: &mut String,
    line: &Line,
    colour: &str,
    place: usize,
    scale: &Scale,
) -> std::fmt::Result {
    let (name, points) = line;
    let place_of = |(clients, rate): &(f64, f64)| (scale.x(*clients), scale.y(*rate));
    let places: Vec<(f64, f64)> = points.iter().map(place_of).collect();
    let legend_y = TOP + 10.0 + place as f64 * LEGEND_LINE;
    let (from, to) = (RIGHT + 24.0, RIGHT + 52.0);
    let style = match places.as_slice() {
        [(_, y)] => {
            let style = format!(r#"stroke="{colour}" stroke-width="1.5" stroke-dasharray="5 4""#);
            writeln!(
                svg,
                r#"<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}" {style}/>"#
            )?;
            style
        }
        places => {
            let style = format!(r#"stroke="{colour}" stroke-width="2""#);
            let path: Vec<String> = places
                .iter()
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            writeln!(
                svg,
                r#"<polyline points="{}" fill="none" {style}/>"#,
                path.join(" ")
            )?;
            for (x, y) in places {
                writeln!(
                    svg,
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#
                )?;
            }
            style
        }
    };
    writeln!(
        svg,
        r#"<line x1="{from}" x2="{to}" y1="{legend_y}" y2="{legend_y}" {style}/>"#
    )?;
    writeln!(
        svg,
        r#"<text x="{}" y="{}">{name}</text>"#,
        to + 8.0,
        legend_y + 4.0
    )
}
