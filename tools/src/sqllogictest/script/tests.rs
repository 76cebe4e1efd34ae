//! Scripts, good and bad.

use super::*;

fn one(text: &str) -> Record<'_> {
    let mut script = parse(text).unwrap();
    assert_eq!(script.records.len(), 1, "{script:?}");
    script.records.remove(0)
}

fn error(text: &str) -> (u32, Problem) {
    let ScriptError { line, problem } = parse(text).unwrap_err();
    (line, problem)
}

#[test]
fn records_are_apart_by_blank_lines_and_comments_are_passed_over() {
    let text = "# a\n\n# b\nstatement ok\nCREATE TABLE t(a,\n  b)\n \n\nstatement error # why\nSELEC\n\
                \nquery IT rowsort name-1 more words\nSELECT 1,\n'# x'\n----\n1\n# x\n\nquery T\nSELECT 1 WHERE 0";
    let script = parse(text).unwrap();
    let found: Vec<_> = script.records.iter().map(|r| (r.line, r.sql)).collect();
    assert_eq!(
        found,
        [
            (4, "CREATE TABLE t(a,\n  b)"),
            (9, "SELEC"),
            (12, "SELECT 1,\n'# x'"),
            (19, "SELECT 1 WHERE 0")
        ]
    );
    assert_eq!(script.records[1].kind, Kind::Statement { fails: true });
    let query = Query {
        types: "IT",
        sort: Sort::Rows,
        label: Some("name-1"),
        expected: Expected::Values("1\n# x\n"),
    };
    assert_eq!(script.records[2].kind, Kind::Query(query));
    let Kind::Query(last) = &script.records[3].kind else {
        panic!("{script:?}")
    };
    assert_eq!(last.expected, Expected::Values(""), "nothing is expected");
    assert_eq!((script.lines, script.skipped), (20, 0));
}

#[test]
fn lines_of_other_systems_end_the_same_way() {
    let record = one("query I\r\nSELECT 1\r\n----\r\n1\r\n\r\n");
    assert_eq!(record.sql, "SELECT 1");
    let Kind::Query(query) = record.kind else {
        panic!("it is a query")
    };
    let Expected::Values(values) = query.expected else {
        panic!("it has values")
    };
    assert_eq!(values.lines().collect::<Vec<_>>(), ["1"]);
}

#[test]
fn a_hash_is_told_from_values_by_its_line() {
    let md5 = "0123456789abcdef0123456789ABCDEF";
    let text = format!(
        "hash-threshold 8\n\nquery I valuesort\nSELECT 1\n----\n30 values hashing to {md5}\n"
    );
    let Kind::Query(query) = one(&text).kind else {
        panic!("it is a query")
    };
    assert_eq!(query.expected, Expected::Hash { count: 30, md5 });
    for values in [
        "30 values hashing to nothing\n",
        "30 values hashing to\n",
        "",
    ] {
        assert_eq!(expected(values), Expected::Values(values));
    }
}

#[test]
fn conditions_choose_sides_by_name_whatever_is_written_behind_them() {
    let sides = |text: &str| {
        let Sides { dovehouse, stock } = one(&format!("{text}\nstatement ok\nSELECT 1")).sides;
        (dovehouse, stock)
    };
    assert_eq!(sides("skipif mysql # not compatible"), (true, true));
    assert_eq!(sides("onlyif sqlite # empty RHS\n# and more"), (true, true));
    assert_eq!(sides("onlyif SQLite\nskipif dovehouse"), (false, true));
    assert_eq!(sides("onlyif dovehouse # a turn"), (true, false));

    let foreign = "onlyif mssql # TBD\nquery ?? weird\nSELECT 1\n----\n1\n\nskipif sqlite\nhalt\n\nonlyif mssql\nhalt\n\n";
    let text = format!("{foreign}statement ok\nSELECT 1");
    let script = parse(&text).unwrap();
    assert_eq!((script.records.len(), script.skipped), (1, 3));
}

#[test]
fn nothing_behind_a_halt_that_is_for_us_is_read() {
    for halt in ["halt", "onlyif sqlite\nhalt", "skipif mssql # here\nhalt"] {
        let text = format!("statement ok\nSELECT 1\n\n{halt}\n\nthis is no record");
        assert_eq!(parse(&text).unwrap().records.len(), 1);
    }
}

#[test]
fn what_is_no_script_is_named_with_its_line() {
    let word = |word: &str| word.to_owned();
    assert_eq!(
        error("\nloop 5\n"),
        (2, Problem::UnknownRecord(word("loop")))
    );
    assert_eq!(
        error("statement maybe\nSELECT 1"),
        (1, Problem::Expectation(word("maybe")))
    );
    assert_eq!(
        error("# x\nquery IX\nSELECT 1"),
        (2, Problem::Types(word("IX")))
    );
    assert_eq!(error("query\nSELECT 1"), (1, Problem::Types(word(""))));
    assert_eq!(
        error("query I sorted\nSELECT 1"),
        (1, Problem::Sort(word("sorted")))
    );
    assert_eq!(
        error("hash-threshold many"),
        (1, Problem::Threshold(word("many")))
    );
    assert_eq!(error("statement ok\n\nSELECT 1"), (1, Problem::NoSql));
    assert_eq!(error("query I\n----\n1"), (1, Problem::NoSql));
    assert_eq!(
        error("\n\nonlyif # who\nhalt"),
        (3, Problem::NoName("onlyif"))
    );
    assert_eq!(error("skipif mysql\n\n"), (1, Problem::NoRecord));
    assert_eq!(text(b"a\nb\n\xff").unwrap_err().line, 3);
}
