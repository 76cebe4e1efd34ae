//! SQL's mathematical functions, for a SQLite that was built without them. They are registered one by one when
//! a statement asks for them, so that a connection that does not pays nothing.

use std::ffi::CStr;

/// A function, with SQLite's name for it.
#[derive(Debug)]
pub(crate) struct Math {
    pub(crate) name: &'static CStr,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Constant(f64),
    One(fn(f64) -> f64),
    /// Of an integer, the integer itself.
    Whole(fn(f64) -> f64),
    Two(fn(f64, f64) -> f64),
    /// To the base of 10, or to the first of two arguments.
    Logarithm,
}

/// What a function is given, and gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(i64),
    Real(f64),
}

const fn of(name: &'static CStr, kind: Kind) -> Math {
    Math { name, kind }
}

pub(crate) static FUNCTIONS: [Math; 29] = [
    of(c"acos", Kind::One(f64::acos)),
    of(c"acosh", Kind::One(f64::acosh)),
    of(c"asin", Kind::One(f64::asin)),
    of(c"asinh", Kind::One(f64::asinh)),
    of(c"atan", Kind::One(f64::atan)),
    of(c"atan2", Kind::Two(f64::atan2)),
    of(c"atanh", Kind::One(f64::atanh)),
    of(c"ceil", Kind::Whole(f64::ceil)),
    of(c"ceiling", Kind::Whole(f64::ceil)),
    of(c"cos", Kind::One(f64::cos)),
    of(c"cosh", Kind::One(f64::cosh)),
    of(c"degrees", Kind::One(f64::to_degrees)),
    of(c"exp", Kind::One(f64::exp)),
    of(c"floor", Kind::Whole(f64::floor)),
    of(c"ln", Kind::One(|x| positive(x).ln())),
    of(c"log", Kind::Logarithm),
    of(c"log10", Kind::One(|x| positive(x).log10())),
    of(c"log2", Kind::One(|x| positive(x).log2())),
    of(c"mod", Kind::Two(|x, y| x % y)),
    of(c"pi", Kind::Constant(std::f64::consts::PI)),
    of(c"pow", Kind::Two(f64::powf)),
    of(c"power", Kind::Two(f64::powf)),
    of(c"radians", Kind::One(f64::to_radians)),
    of(c"sin", Kind::One(f64::sin)),
    of(c"sinh", Kind::One(f64::sinh)),
    of(c"sqrt", Kind::One(f64::sqrt)),
    of(c"tan", Kind::One(f64::tan)),
    of(c"tanh", Kind::One(f64::tanh)),
    of(c"trunc", Kind::Whole(f64::trunc)),
];

/// The number, if it has a logarithm.
fn positive(x: f64) -> f64 {
    if x > 0.0 { x } else { f64::NAN }
}

impl Math {
    /// The numbers of arguments that it takes.
    pub(crate) fn arguments(&self) -> &'static [i32] {
        match self.kind {
            Kind::Constant(_) => &[0],
            Kind::One(_) | Kind::Whole(_) => &[1],
            Kind::Two(_) => &[2],
            Kind::Logarithm => &[1, 2],
        }
    }

    /// Its value, of as many numbers as it takes; not a number where it has none.
    pub(crate) fn call(&self, given: &[Number]) -> Number {
        let real = |at: usize| match given.get(at) {
            Some(&Number::Real(real)) => real,
            Some(&Number::Integer(integer)) => integer as f64,
            None => f64::NAN,
        };
        let value = match self.kind {
            Kind::Constant(value) => value,
            Kind::Whole(_) if matches!(given, [Number::Integer(_)]) => return given[0],
            Kind::One(function) | Kind::Whole(function) => function(real(0)),
            Kind::Two(function) => function(real(0), real(1)),
            Kind::Logarithm if given.len() == 1 => positive(real(0)).log10(),
            Kind::Logarithm => {
                let base = real(0);
                positive(real(1)).ln() / if base > 1.0 { base.ln() } else { f64::NAN }
            }
        };
        Number::Real(value)
    }
}
