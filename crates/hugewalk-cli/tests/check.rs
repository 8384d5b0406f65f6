//! `hugewalk check`: verdicts, exit codes, and what it says to wishes that cannot be fulfilled.

use assert_cmd::Command;
use serde_json::Value;

struct Ran {
    text: String,
    error: String,
    code: Option<i32>,
}

fn check(arguments: &str) -> Ran {
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    command.arg("check").args(arguments.split_whitespace());
    let output = command.output().expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { text: text(output.stdout), error: text(output.stderr), code: output.status.code() }
}

fn json(arguments: &str) -> Value {
    let ran = check(&format!("{arguments} --format json"));
    assert_eq!(ran.error, "");
    serde_json::from_str(&ran.text).expect("JSON")
}

#[test]
fn a_verdict_says_which_protocols_race_and_how_far_was_looked() {
    let report = json("S1 S8");
    assert_eq!((&report["schema"], &report["unexpected"]), (&"hugewalk-check/2".into(), &0.into()));
    let verdict = |scenario: &str, protocol: &str| {
        let all = report["verdicts"].as_array().expect("a list");
        let fits = |verdict: &&Value| verdict["scenario"] == scenario && verdict["protocol"] == protocol;
        all.iter().find(fits).expect("a verdict").clone()
    };
    let race = verdict("S1", "legacy");
    assert_eq!((&race["verdict"], &race["race"]["switches"]), (&"race".into(), &3.into()));
    assert_eq!(race["story"]["report"]["property"], "I1");
    let safe = verdict("S1", "hugewalk");
    assert_eq!((&safe["verdict"], &safe["explored"]["coverage"]), (&"safe".into(), &"everything".into()));
    assert!(safe["explored"]["executions"].as_u64() > Some(100), "{safe}");
    assert_eq!(safe["story"], Value::Null);
    assert_eq!(verdict("S8", "rfc-ptl")["verdict"], "race");
    let text = check("S1 S8").text;
    let line = |name: &str| {
        text.lines().find(|line| line.trim_start().starts_with(name)).expect("a line").to_owned()
    };
    assert!(line("S1 ").contains("use after free 3") && line("S8 ").contains("wrong write 2"), "{text}");
    assert_eq!((&race["kind"], &race["race"]["kind"]), (&"use_after_free".into(), &"use_after_free".into()));
    assert_eq!(race["story"]["report"]["kind"], "use_after_free");
    assert_eq!(safe["kind"], Value::Null);
}

#[test]
fn a_verdict_that_is_not_the_expected_one_gives_exit_code_1_and_is_named() {
    assert_eq!(check("S1 --protocol legacy").code, Some(0));
    // The race takes preemptions.
    let ran = check("S1 --protocol legacy --preemptions 0");
    assert_eq!(ran.code, Some(1));
    assert!(ran.text.contains("S1 under legacy: safe, where a race is expected"), "{}", ran.text);
    assert_eq!(json("S1 --protocol legacy --preemptions 0")["unexpected"], 1);
}

#[test]
fn fail_fast_stops_at_the_first_verdict_that_is_not_as_expected() {
    let both = "S1 S2 --protocol legacy --preemptions 0 --jobs 1";
    let verdicts = |report: &Value| report["verdicts"].as_array().expect("a list").len();
    let whole = json(both);
    assert_eq!((verdicts(&whole), &whole["unexpected"]), (2, &2.into()));
    let stopped = json(&format!("{both} --fail-fast"));
    assert_eq!((verdicts(&stopped), &stopped["unexpected"]), (1, &1.into()));
    assert_eq!(check(&format!("{both} --fail-fast")).code, Some(1));
    // Where all is as expected, nothing stops it.
    let good = json("S1 S2 --protocol legacy --jobs 1 --fail-fast");
    assert_eq!((verdicts(&good), &good["unexpected"]), (2, &0.into()));
}

#[test]
fn a_verdict_whose_limit_came_first_is_incomplete_and_not_as_expected() {
    let ran = check("S1 --protocol hugewalk --executions 10");
    assert_eq!(ran.code, Some(1), "{}", ran.text);
    for wanted in ["incomplete: safe with up to ", "incomplete, where safe is expected", "--executions N"] {
        assert!(ran.text.contains(wanted), "{wanted}: {}", ran.text);
    }
    let report = json("S1 S8 --protocol hugewalk --executions 10");
    let verdict = &report["verdicts"][0];
    assert_eq!((&verdict["verdict"], &verdict["as_expected"]), (&"incomplete".into(), &false.into()));
    assert_eq!((&report["incomplete"], &report["unexpected"]), (&1.into(), &1.into()));
    // A bound that was asked for, and kept to, is no limit that came first.
    assert_eq!(json("S1 --protocol hugewalk --preemptions 1")["verdicts"][0]["verdict"], "safe");
    // No verdict is expected of a protocol that was changed.
    let ran = check("S1 --protocol hugewalk --without flush --executions 10");
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    assert!(ran.text.contains("1 verdict is incomplete"), "{}", ran.text);
}

#[test]
fn a_protocol_of_ones_own_has_a_column_and_a_command_that_asks_for_the_same() {
    let line = "mine=rfc-ptl,walkers=rcu,broadcast=last,+revalidate";
    let report = json(&format!("S8 S9 --protocol rfc-ptl --protocol {line}"));
    let of = |scenario: &str, protocol: &str| -> Value {
        let all = report["verdicts"].as_array().expect("a list").iter();
        let mut fits =
            all.filter(|verdict| verdict["scenario"] == scenario && verdict["protocol"] == protocol);
        fits.next().expect("a verdict").clone()
    };
    assert_eq!(
        (&of("S8", "rfc-ptl")["verdict"], &of("S8", "mine")["verdict"]),
        (&"race".into(), &"safe".into())
    );
    assert_eq!(
        (&of("S9", "rfc-ptl")["verdict"], &of("S9", "mine")["verdict"]),
        (&"race".into(), &"safe".into())
    );
    assert_eq!(of("S8", "mine")["as_expected"], Value::Null);
    assert_eq!(report["options"]["protocols"], serde_json::json!(["rfc-ptl", line]));
    let command = report["command"].as_str().expect("text").to_owned();
    let again = json(command.strip_prefix("hugewalk check ").expect("ours"));
    assert_eq!(again["options"], report["options"]);
    let head = check(&format!("S8 S9 --protocol rfc-ptl --protocol {line}")).text;
    let head = head.lines().next().expect("a line");
    assert_eq!(head.split_whitespace().collect::<Vec<_>>(), ["rfc-ptl", "mine"]);
    // Steps that are added to whatever lacks them.
    let added = json("S8 --with revalidate");
    let names: Vec<&Value> = added["options"]["protocols"].as_array().expect("a list").iter().collect();
    assert!(names.contains(&&"legacy".into()) && !names.contains(&&"hugewalk".into()), "{names:?}");
    assert_eq!(added["options"]["with"], serde_json::json!(["revalidate"]));
}

#[test]
fn a_run_is_shown_and_drawn_for_a_message_a_page_and_a_picture() {
    let shown = check("--show S1 --protocol hugewalk");
    assert_eq!(shown.code, Some(0));
    assert!(shown.text.contains("nothing goes wrong under this schedule: A"), "{}", shown.text);
    assert!(shown.text.contains("CPU C (P1: munmap)") && shown.text.contains("call_rcu(T3)"));
    let schedule = shown.text.trim_end().rsplit(' ').next().expect("a schedule");
    assert_eq!(check(&format!("S1 --protocol hugewalk --replay {schedule}")).code, Some(0));
    let diagram = check("S8 --protocol rfc-ptl --diagram");
    assert_eq!(diagram.code, Some(0));
    assert!(diagram.text.starts_with("at first: ") && diagram.text.contains("\nI2: "), "{}", diagram.text);
    assert!(diagram.text.lines().all(|line| line.len() <= 72) && !diagram.text.contains(".rs:"));
    let table = check("S1 S8 --protocol legacy,hugewalk --format md").text;
    assert!(table.contains("| **use after free 3** | safe "), "{table}");
    let run = check("S8 --protocol rfc-ptl --format md").text;
    assert!(run.starts_with("**S8 under rfc-ptl**: ") && run.matches("```").count() == 2, "{run}");
    for arguments in
        ["S1 S8 --protocol legacy,hugewalk", "S8 --protocol rfc-ptl", "--show S1 --protocol hugewalk"]
    {
        let picture = check(&format!("{arguments} --format svg")).text;
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"), "{picture}");
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
        let shown: String =
            picture.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text).collect();
        assert!(!shown.contains('&') || shown.contains("&gt;"), "{shown}");
    }
}

#[test]
fn a_list_may_be_of_what_is_named() {
    let list = json("--list s9 revalidate rfc");
    let ids: Vec<&str> =
        list["scenarios"].as_array().expect("a list").iter().filter_map(|line| line["id"].as_str()).collect();
    assert!(
        ids.contains(&"S9") && ids.contains(&"S9/gup-fast") && ids.iter().all(|id| id.starts_with("S9")),
        "{ids:?}"
    );
    let count = |field: &str| list[field].as_array().expect("a list").len();
    assert_eq!((count("protocols"), count("steps")), (1, 1));
}

#[test]
fn explain_says_what_a_name_is_or_that_there_is_none() {
    let explain = |name: &str| {
        let output = Command::cargo_bin("hugewalk")
            .expect("the command")
            .args(["explain", name])
            .output()
            .expect("it ran");
        let text = String::from_utf8(output.stdout).expect("text");
        (text, String::from_utf8(output.stderr).expect("text"), output.status.code())
    };
    let (text, _, code) = explain("S10");
    assert_eq!(code, Some(0));
    assert!(
        text.contains("ipi-targeted") && text.contains("\n  hugewalk check S10 --protocol legacy\n"),
        "{text}"
    );
    let (text, error, code) = explain("revalidat");
    assert_eq!((&*text, code, error.lines().count()), ("", Some(2), 1));
    assert!(
        error.starts_with("hugewalk: nothing is called `revalidat`, did you mean revalidate?"),
        "{error}"
    );
}

/// Chance may miss a race. That says nothing, and nothing is said.
#[test]
fn a_race_that_chance_does_not_meet_is_not_met_and_not_safe() {
    let ran = check("S1 --protocol legacy --random 1");
    assert_eq!(ran.code, Some(0));
    assert!(ran.text.contains("not met in 1 random schedule, which cannot exclude a race"), "{}", ran.text);
    assert!(
        ran.text.contains("1 verdict, 1 known race not met; ") && !ran.text.contains("safe"),
        "{}",
        ran.text
    );
    let report = json("S1 --random 1");
    let verdicts = report["verdicts"].as_array().expect("a list");
    let of = |protocol: &str| verdicts.iter().find(|one| one["protocol"] == protocol).expect("a verdict");
    assert_eq!((&of("legacy")["verdict"], &of("legacy")["as_expected"]), (&"not_met".into(), &Value::Null));
    assert_eq!((&of("hugewalk")["verdict"], &of("hugewalk")["as_expected"]), (&"safe".into(), &true.into()));
    assert_eq!(report["not_met"], 1);
    // No verdict is expected of this one, so random schedules say nothing either.
    let unknown = json("S1 --without revalidate --random 1");
    assert_eq!((&unknown["verdicts"][0]["verdict"], &unknown["not_met"]), (&"not_met".into(), &0.into()));
    let text = check("S1 S8 --random 1").text;
    assert!(
        text.contains("not met 1") && text.contains(" 1 known race not met; ") && !text.contains("all as"),
        "{text}"
    );
}

#[test]
fn a_verdict_says_what_kind_of_fault_it_is() {
    for (arguments, kind, words) in [
        ("S1 --protocol legacy", "use_after_free", "use after free 3"),
        ("S8 --protocol rfc-ptl", "wrong_write", "wrong write 2"),
        ("S9 --protocol vma-lock", "foreign_page", "foreign page 3"),
        ("S11:no-flush --protocol hugewalk", "stale_tlb", "stale TLB 1"),
        ("S16:page-reference", "leak", "leak 2"),
        ("S19:look-first", "deadlock", "deadlock 1"),
        ("S24:shared-lock-only", "livelock", "livelock 1"),
        ("S33:lock-let-go", "starvation", "starvation 4"),
        ("S25:no-trylock", "lock_order", "lock order 1"),
        ("S26:write-lock", "deadlock", "deadlock\n"),
        ("S6:sleeping-visitor", "sleep_in_atomic", "sleep in atomic context\n"),
    ] {
        let report = json(arguments);
        let verdicts = report["verdicts"].as_array().expect("a list");
        let race = verdicts.iter().find(|one| one["verdict"] == "race").expect("a race");
        assert_eq!(race["kind"], kind, "{arguments}");
        // A second scenario makes a table of it.
        let text = check(&format!("{arguments} S28")).text;
        let found = words.trim_end_matches(|c: char| c.is_ascii_digit());
        assert!(text.contains(found) && !text.contains("race"), "{words}: {text}");
    }
}

#[test]
fn a_row_named_after_a_cve_says_where_it_was_real_and_where_it_shows_here() {
    let text = check("S14 --protocol legacy").text.replace('\n', " ");
    for words in [
        "(CVE-2025-38084)",
        "was real in Linux before 6.16",
        "This row is safe because",
        "S14:unshare-early under",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let history = &json("S14 --protocol legacy")["scenarios"][0]["history"];
    assert!(
        history.as_str().is_some_and(|told| told.starts_with("CVE-2025-38084 was real in ")),
        "{history}"
    );
}

#[test]
fn a_step_left_out_opens_the_race_that_it_closes() {
    for (arguments, verdict) in [
        ("S8 --protocol hugewalk", "safe"),
        ("S8 --protocol hugewalk --without revalidate", "race"),
        ("S8 --without revalidate", "race"),
        ("S2 --protocol rfc-ptl", "safe"),
        ("S2 --protocol rfc-ptl --freed-at-once", "race"),
        ("S2 --protocol hugewalk --freed-at-once", "safe"),
        ("S8 --protocol hugewalk --without revalidate --pct 20000 --seed 3", "race"),
        ("S8 --protocol hugewalk --without revalidate --random 20000 --seed 3", "race"),
    ] {
        let report = json(arguments);
        assert_eq!(report["verdicts"].as_array().map(Vec::len), Some(1), "{arguments}");
        assert_eq!(report["verdicts"][0]["verdict"], verdict, "{arguments}");
    }
}

#[test]
fn a_schedule_is_replayed_where_it_belongs() {
    let found = json("S8 --protocol rfc");
    let schedule = found["verdicts"][0]["race"]["schedule"].as_str().expect("a schedule").to_owned();
    let again = json(&format!("S8 --protocol rfc --replay {schedule}"));
    assert_eq!(again["report"]["schedule"].as_str(), Some(&*schedule));
    let text = check(&format!("S8 --protocol rfc --replay {schedule}")).text;
    assert!(text.contains("wrong-table-write") && !text.contains("hidden"), "{text}");
    // A replay prints every step: as many as the story has, but for loops.
    let steps = again["steps"].as_array().expect("steps").len();
    let printed = text.lines().filter(|line| line.contains(".rs:") && !line.contains("crates/")).count();
    assert!(printed >= steps, "{printed} of {steps}: {text}");
    // Letters as small ones; and a protocol only where there is more than one.
    let small = json(&format!("s8 --protocol RFC --replay {}", schedule.to_lowercase()));
    assert_eq!(small["report"], again["report"]);
    assert_eq!(check("S14:unshare-early --replay A1").code, Some(0));
    // One after the other does no harm.
    assert_eq!(json("S8 --protocol rfc-ptl --replay A1")["report"], Value::Null);
}

#[test]
fn the_example_that_an_error_gives_runs() {
    for wrong in ["--replay A1", "S8 --replay A1"] {
        let error = check(wrong).error;
        let example = error.split("hugewalk check ").nth(1).expect("an example").trim();
        let ran = check(example);
        assert_eq!((ran.code, &*ran.error), (Some(0), ""), "{example}");
        assert!(ran.text.contains("CPU A (P2: walk)"), "{example}: {}", ran.text);
    }
}

#[test]
fn a_schedule_has_a_page() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("page.html");
    let arguments = format!("S8 --protocol rfc-ptl --replay A4B1 --html {}", file.display());
    assert_eq!(check(&arguments).code, Some(0));
    let page = std::fs::read_to_string(&file).expect("a page");
    assert!(page.contains("hugewalk check S8 --protocol rfc-ptl --replay A4B1") && page.contains("story-0"));
}

/// As distributions and registries build it: drawings then lack the names of functions and locks, and it says so.
#[test]
fn a_binary_without_line_tables_says_what_is_missing() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let copy = directory.path().join("hugewalk");
    for tool in [&["strip"][..], &["objcopy", "--strip-debug"]] {
        std::fs::copy(env!("CARGO_BIN_EXE_hugewalk"), &copy).expect("copied");
        let stripped = std::process::Command::new(tool[0]).args(&tool[1..]).arg(&copy).status();
        if !stripped.is_ok_and(|status| status.success()) {
            use std::io::Write;
            writeln!(std::io::stderr(), "no {} here, a stripped binary is not tried", tool[0]).ok();
            continue;
        }
        let output = std::process::Command::new(&copy)
            .args(["check", "S8", "--protocol", "rfc-ptl"])
            .output()
            .expect("it ran");
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), error.lines().count()), (Some(0), 1), "{error}");
        assert!(error.starts_with("hugewalk: this binary has no line tables: "), "{error}");
        assert!(error.contains("CARGO_PROFILE_RELEASE_DEBUG=line-tables-only"), "{error}");
    }
    assert_eq!(check("S8 --protocol rfc-ptl").error, "", "this one has them");
}

#[test]
fn every_wish_that_cannot_be_fulfilled_gets_one_line_and_exit_code_2() {
    let cases = [
        ("S99", "no scenario is called `S99`"),
        ("S1/gup-fats", "no scenario is called `S1/gup-fats`"),
        (
            "S1 --protocol hugewlak",
            "no protocol is called `hugewlak`, did you mean hugewalk? (there are legacy,",
        ),
        (
            "S1 --without revaldate",
            "no step is called `revaldate`, did you mean revalidate? (there are rcu-free,",
        ),
        (
            "S1 --protocol legacy --without revalidate",
            "legacy has no step `revalidate`; drop it from one that has it: hugewalk",
        ),
        ("--replay A1", "--replay wants one scenario and one --protocol, as in: "),
        ("S1 --replay A1", "--replay wants one scenario and one --protocol"),
        ("S1 --protocol legacy --replay A1x", "--replay A1x: a schedule is turns of a thread's letter"),
        ("S8 --protocol legacy --replay C3", "--replay C3: S8 has no CPU C; it has A, B; a schedule belongs"),
        (
            "S8 --protocol legacy --replay A1B999A1",
            "--replay A1B999A1: at turn 2 CPU B cannot move in S8 under legacy: it",
        ),
        ("--shard 5/4", "--shard 5/4: give K/N with K from 1 to N"),
        ("--shard two", "--shard two: give K/N"),
        ("--checkpoint no/such/place", "no/such/place: cannot be written: "),
        ("merge no-such-file", "no-such-file: cannot be read: "),
        ("--random 5 --pct 5", "the argument '--random <N>' cannot be used with '--pct <N>'"),
        ("--protocl rfc", "unexpected argument '--protocl' found; a similar argument exists: '--protocol'"),
        ("S1*x", "no scenario is called `S1*x`, did you mean "),
        ("S6", "no scenario is called `S6`, did you mean 'S6/*'?"),
        ("--seed 4", "--seed goes with --random N or --pct N"),
        ("--random 5 --changes 3", "the argument '--random <N>' cannot be used with '--changes <N>'"),
        ("--seconds 3", "unexpected argument '--seconds' found"),
        ("--pct 5 --executions 3", "the argument '--pct <N>' cannot be used with '--executions <N>'"),
        (
            "S1 --protocol rfc --replay A1 --jobs 2",
            "the argument '--replay <SCHEDULE>' cannot be used with '--jobs <N>'",
        ),
        ("S1 --protocol rfc --replay=", "--replay: the schedule is empty; give one as a report prints it"),
        ("--list S99", "no scenario is called `S99`, did you mean "),
        ("--list --show", "the argument '--list' cannot be used with '--show'"),
        ("--show S1", "--show wants one scenario and one --protocol, as in: hugewalk check --show S1"),
        ("--show S1 --protocol rfc --jobs 2", "the argument '--show' cannot be used with '--jobs <N>'"),
        ("S1 --protocol hugewalk --diagram", "--diagram wants one race, or a run by --show or --replay"),
        ("S1 --protocol rfc --diagram --format md", "--diagram is text of 72 columns; leave --format out"),
        ("S1 --protocol rfc --format html", "invalid value 'html' for '--format <FORMAT>'"),
        ("S8 --protocol hugewalk --with flush", "every protocol has step `flush`; --without leaves it out"),
        (
            "S8 --protocol hugewalk --with revalidate",
            "hugewalk has step `revalidate` already; add it to one that lacks it: legacy, ",
        ),
        ("S8 --with revalidat", "no step is called `revalidat`, did you mean revalidate?"),
        ("S8 --protocol mine=rcf", "--protocol mine=rcf: it begins with `rcf`, which is no protocol"),
        ("S8 --protocol m=rfc,walkers=x", "--protocol m=rfc,walkers=x: walkers=x: there are mmap, rcu, vma"),
        (
            "S8 --protocol m=rfc --protocol m=rfc-ptl",
            "--protocol m=...: is defined twice; give each its own name",
        ),
        ("--preemptions -1", "invalid value '-1' for '--preemptions <N>': give 0 to 1000"),
        ("--jobs none", "invalid value 'none' for '--jobs <N>'"),
        ("merge", "this is missing: <FILE>..."),
    ];
    for (arguments, expected) in cases {
        let ran = check(arguments);
        assert_eq!((ran.code, &*ran.text), (Some(2), ""), "{arguments}: {}", ran.error);
        assert!(ran.error.starts_with(&format!("hugewalk: {expected}")), "{arguments}: {}", ran.error);
        assert_eq!(ran.error.lines().count(), 1, "{arguments}: {}", ran.error);
    }
}

#[test]
fn everything_that_has_a_name_is_listed() {
    let text = check("--list").text;
    for name in ["S1 ", "S30 ", "\nlegacy ", "\nrfc-ptl ", "\nconfirm-generation "] {
        assert!(text.contains(name), "{name}: {text}");
    }
    let list = json("--list");
    assert_eq!(list["schema"], "hugewalk-check-list/1");
    let names = |list: &Value, field: &str| -> Vec<String> {
        let lines = list.as_array().expect("a list").iter();
        lines.map(|line| line[field].as_str().expect("a name").to_owned()).collect()
    };
    let all = json("--random 1");
    assert_eq!(names(&list["scenarios"], "id"), names(&all["scenarios"], "id"));
    assert_eq!(
        names(&list["protocols"], "name"),
        [
            "legacy",
            "rfc",
            "rfc-ptl",
            "vma-lock",
            "ipi-each",
            "ipi-last",
            "sync-rcu",
            "ipi-implied",
            "ipi-targeted",
            "unshare-rcu",
            "hugewalk"
        ]
    );
    for step in list["steps"].as_array().expect("a list") {
        let (name, having) = (step["name"].as_str().expect("a name"), &step["protocols"][0]);
        let protocol = having.as_str().expect("a protocol has it");
        let ran = check(&format!("S1 --protocol {protocol} --without {name} --random 1"));
        assert_eq!((ran.code, &*ran.error), (Some(0), ""), "{name}");
    }
}

#[test]
fn a_step_named_twice_is_left_out_once_and_what_comes_of_it_is_known() {
    let report = json("S8 --without revalidate,revalidate --protocol hugewalk,hugewalk");
    assert_eq!(report["options"]["without"], serde_json::json!(["revalidate"]));
    let [verdict] = &report["verdicts"].as_array().expect("a list")[..] else { panic!("{report}") };
    assert_eq!((&verdict["expected"], &verdict["as_expected"]), (&"race".into(), &true.into()));
    assert!(check("S8 --without revalidate").text.contains("1 verdict as expected"));
    // Of other scenarios nobody has said anything.
    assert_eq!(json("S1 --without revalidate")["verdicts"][0]["expected"], Value::Null);
}

#[test]
fn a_mistake_that_is_made_under_one_protocol_is_drawn() {
    let text = check("S14:unshare-early").text;
    assert!(text.contains("CPU A (P1: munmap)") && text.contains("BUG: hugewalk: "), "{text}");
    assert!(!text.contains("A fault and N:"), "{text}");
    let text = check("S6:sleeping-visitor").text;
    assert!(
        text.lines().next().is_some_and(|line| line.starts_with("A fault and N:")),
        "no empty table: {text}"
    );
}

fn in_columns(arguments: &str, columns: &str) -> String {
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    command.arg("check").args(arguments.split_whitespace()).env("COLUMNS", columns);
    String::from_utf8(command.output().expect("it ran").stdout).expect("text")
}

#[test]
fn a_report_fits_the_columns_there_are() {
    let all = "--random 1";
    for (arguments, columns, width) in [
        (all, "80", 80),
        (all, "100", 100),
        ("--list", "80", 80),
        ("S9 --protocol vma-lock", "80", 80),
        ("S9 --protocol vma-lock", "100", 100),
        ("S9 --protocol vma-lock", "300", 120),
        ("S9 --protocol vma-lock", "nonsense", 100),
    ] {
        let text = in_columns(arguments, columns);
        let widest = text.lines().max_by_key(|line| line.len()).expect("lines");
        assert!(widest.len() <= width, "{arguments}, {columns}: {widest}");
        let blank = text.lines().find(|line| line.ends_with(' '));
        assert_eq!(blank, None, "{arguments}, {columns}");
    }
    // All protocols are there, in as many tables as it takes.
    let text = in_columns("S2 S28 --protocol vma-lock,ipi-each,ipi-last,hugewalk", "80");
    assert_eq!(
        text.lines().filter(|line| line.starts_with("S2 ")).count(),
        1,
        "short names leave room: {text}"
    );
    let text = in_columns(all, "80");
    for protocol in ["legacy", "hugewalk"] {
        let heads = text.lines().filter(|line| line.starts_with("  ") && line.contains(protocol));
        assert_eq!(heads.count(), 1, "{protocol}: {text}");
    }
}

/// The names of all fields.
fn fields(value: &Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn the_schema_explains_every_field() {
    let schema = include_str!("../../../docs/check-schema.md");
    let mut found = std::collections::BTreeSet::new();
    for arguments in [
        "S1 S9 S10:no-broadcast",
        "S8 --without revalidate --preemptions 1",
        "S11:late-flush --protocol hugewalk --pct 5000",
        "S19:look-first --protocol hugewalk",
    ] {
        fields(&json(arguments), &mut found);
    }
    let missing: Vec<&String> = found.iter().filter(|name| !schema.contains(&format!("`{name}`"))).collect();
    let missing: Vec<_> = missing.iter().filter(|name| !schema.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for name in ["tlb", "waits", "allocated", "changes", "seed", "preemptions"] {
        assert!(found.contains(name), "{name} is told nowhere");
    }
}

/// Where a line of the engine is in its file changes too often to be asked for; the rest of what the README shows is printed.
#[test]
fn the_drawing_in_the_documentation_is_what_is_printed() {
    let plain = |line: &str| {
        let words = line.split_whitespace().map(|word| match word.rsplit_once(".rs:") {
            Some((file, _)) => format!("{file}.rs"),
            None => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let printed = check("S8 --protocol rfc-ptl").text;
    for document in ["README.md", "docs/lab.md"] {
        let path = format!("{}/../../{document}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("it is there");
        let block =
            text.split("```text\n").find(|block| block.contains("CPU A (P2: walk)")).expect("a drawing");
        let drawing = block.split("```").next().expect("its end");
        let mut rest = printed.lines();
        for line in drawing.lines().filter(|line| *line != "...") {
            assert!(rest.any(|printed| plain(printed) == plain(line)), "{document}: {line}\nin\n{printed}");
        }
    }
}
