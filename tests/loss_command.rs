//! `preftune loss` through the binary: worked values of every objective, numbers, bad input.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(flags: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .arg("loss")
        .args(flags)
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The objective on a file with this text.
fn loss(objective: &str, table: &str, flags: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.jsonl");
    fs::write(&path, table).unwrap();
    let mut all = vec!["--objective", objective, "--input", path.to_str().unwrap()];
    all.extend(flags);
    run(&all)
}

impl Ran {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Wrong input: exit code 2, these words, nothing on stdout.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, 2, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word}: {}", self.stderr);
        }
        assert!(self.stdout.is_empty(), "{}", self.stdout);
        assert!(!self.stderr.contains("internal"), "{}", self.stderr);
    }
}

/// Every column that an objective on pairs may read, and one that none does.
fn pair() -> Value {
    json!({
        "policy_chosen": -12.0, "policy_rejected": -20.0,
        "reference_chosen": -13.5, "reference_rejected": -19.2,
        "length_chosen": 6, "length_rejected": 8,
        "win_chosen": 0.8, "win_rejected": 0.25,
        "score_chosen": 3.2, "score_rejected": -2.4,
        "previous_chosen": -12.8, "previous_rejected": -19.5,
        "token_kl_chosen": 0.2, "token_kl_rejected": 0.3,
        "prompt": "why?",
    })
}

fn ranked() -> Value {
    json!({"policy": [-12.0, -16.0, -20.0], "length": [6, 8, 8], "reward": [2.0, 0.5, -1.0],
           "prior": [-13.5, -15.5, -19.2], "proposal": [-12.5, -15.0, -21.0]})
}

#[track_caller]
fn assert_near(what: &str, actual: &Value, expected: f64) {
    let actual = actual.as_f64().unwrap();
    assert!(
        (actual - expected).abs() <= 1e-11 * expected.abs().max(1.0),
        "{what}: {actual} is not {expected}"
    );
}

/// `-ln sigmoid(x)` and its derivative.
fn logistic(x: f64) -> (f64, f64) {
    ((-x).exp().ln_1p(), -1.0 / (1.0 + x.exp()))
}

/// Value and gradients, for the chosen and the rejected response, on the example pair.
#[track_caller]
fn assert_worked(objective: &str, flags: &[&str], value: f64, [chosen, rejected]: [f64; 2]) {
    let flags = [flags, &["--json"]].concat();
    let report = loss(objective, &format!("{}\n", pair()), &flags).json();
    let row = &report["rows"][0];
    assert_eq!(row["line"], 1);
    assert_near(objective, &row["loss"], value);
    assert_near(objective, &report["mean"], value);
    assert_near(objective, &row["gradient"]["policy_chosen"], chosen);
    assert_near(objective, &row["gradient"]["policy_rejected"], rejected);
}

#[test]
fn objectives_on_pairs_give_the_worked_values() {
    // objective, flags, loss, gradients for the chosen and the rejected response
    let table: &[(&str, &[&str], f64, [f64; 2])] = &[
        (
            "dpo",
            &[],
            0.584745156704,
            [-0.04427521454014444, 0.04427521454014444],
        ),
        (
            "sigmoid",
            &["--beta=1"],
            0.09554546459796295,
            [-0.09112296101485617, 0.09112296101485617],
        ),
        (
            "cdpo",
            &[],
            0.607745156704,
            [-0.03427521454014445, 0.03427521454014445],
        ),
        (
            "robust",
            &["--label-smoothing=0.2"],
            0.508078490037,
            [-0.07760854787347778, 0.07760854787347778],
        ),
        ("hinge", &[], 0.77, [-0.1, 0.1]),
        ("ipo", &["--tau", "1"], 0.0225, [-0.05, 0.0375]),
        ("ipo-sum", &[], 7.29, [-5.4, 5.4]),
        (
            "fdpo_reverse_kl",
            &[],
            0.584745156704,
            [-0.04427521454014444, 0.04427521454014444],
        ),
        (
            "fdpo_forward_kl",
            &[],
            0.598030351979,
            [-0.010043229814220666, 0.10017300660267195],
        ),
        (
            "fdpo_js",
            &[],
            0.645837717992,
            [-0.008679383069610054, 0.03282738459514469],
        ),
        (
            "fdpo_alpha",
            &["--alpha=0.3"],
            0.593109396968,
            [-0.028527079368731043, 0.05687488125549735],
        ),
    ];
    for (objective, flags, value, gradients) in table {
        assert_worked(objective, flags, *value, *gradients);
    }
}

#[test]
fn objectives_with_more_columns_give_the_worked_values() {
    let (tdpo1, slope1) = logistic(0.1 * 2.2);
    let (tdpo2, slope2) = logistic(0.1 * 2.25);
    let table: &[(&str, &[&str], f64, [f64; 2])] = &[
        ("tdpo1", &[], tdpo1, [0.1 * slope1, -0.1 * slope1]),
        ("tdpo2", &[], tdpo2, [0.1 * slope2, -0.1 * slope2]),
        ("sppo", &[], 75601.445, [-298.5, 249.2]),
        ("sppo_hard", &["--beta=0.1"], 14.945, [-3.5, 4.2]),
        (
            "dno",
            &[],
            0.668893970771,
            [-0.007688773641224523, 0.007688773641224523],
        ),
        (
            "dno_prct",
            &[],
            0.584745156704,
            [-0.04427521454014444, 0.04427521454014444],
        ),
        (
            "inpo",
            &["--eta=0.1"],
            11.334444444444,
            [-6.7333333333333325, 6.7333333333333325],
        ),
        (
            "inpo",
            &[],
            9676.001111111109,
            [-196.73333333333332, 196.73333333333332],
        ),
        (
            "inpo_expected",
            &["--eta=0.1"],
            14.951111111111,
            [-7.7333333333333325, 7.7333333333333325],
        ),
        ("gpo", &["--beta=0.1"], 734.245, [-30.5, 23.2]),
        (
            "gpo_length_normalised",
            &["--beta=1"],
            6.99625,
            [-0.49166666666666664, 0.2875],
        ),
        (
            "asft",
            &["--lambda=0.5"],
            3.042825241871,
            [-0.25, 0.005589093114615752],
        ),
        (
            "orpo",
            &[],
            2.0451931604,
            [-0.17367520800560543, 0.004951470236356039],
        ),
        (
            "simpo",
            &["--beta=2.5", "--gamma-beta-ratio=0.55"],
            0.757599035317,
            [-0.22133723890573176, 0.16600292917929882],
        ),
    ];
    for (objective, flags, value, gradients) in table {
        assert_worked(objective, flags, *value, *gradients);
    }
    let divergences = |objective: &str| {
        let report = loss(objective, &pair().to_string(), &["--json"]).json();
        report["rows"][0]["gradient"].clone()
    };
    assert_near(
        "K_w",
        &divergences("tdpo1")["token_kl_chosen"],
        0.1 * slope1,
    );
    assert_near(
        "K_l",
        &divergences("tdpo1")["token_kl_rejected"],
        -0.1 * slope1,
    );
    assert_near("K_w", &divergences("tdpo2")["token_kl_chosen"], 0.0);
    assert_near(
        "K_l",
        &divergences("tdpo2")["token_kl_rejected"],
        -0.05 * slope2,
    );
}

#[test]
fn a_margin_is_taken_off_the_scaled_log_ratio() {
    let row = |margin: f64| {
        let mut row = pair();
        row["margin"] = json!(margin);
        row
    };
    // h = 2.3; of mean log-probs, 0.5.
    let dpo = |x: f64| {
        let (loss, slope) = logistic(x);
        (loss, [0.1 * slope, -0.1 * slope])
    };
    let (value, gradients) = dpo(0.23 - 0.5);
    let mixed = |rate: f64| {
        let (low, high) = (logistic(-0.27), logistic(0.27));
        let loss = (1.0 - rate) * low.0 + rate * high.0;
        let slope = 0.1 * ((1.0 - rate) * low.1 - rate * high.1);
        (loss, [slope, -slope])
    };
    let (smoothed, smoothed_gradients) = mixed(0.2);
    let (tdpo, tdpo_gradients) = dpo(0.1 * (2.3 - 0.1) - 0.5);
    let table: [(&str, &[&str], f64, [f64; 2]); 7] = [
        ("dpo", &[], value, gradients),
        ("dno_prct", &[], value, gradients),
        (
            "cdpo",
            &["--label-smoothing=0.2"],
            smoothed,
            smoothed_gradients,
        ),
        ("hinge", &[], 1.27, [-0.1, 0.1]),
        ("tdpo1", &[], tdpo, tdpo_gradients),
        // 2 (0.5 - 0.25) - 0.5 = 0
        ("simpo", &[], 2f64.ln(), [-1.0 / 6.0, 1.0 / 8.0]),
        // Without a use for it: as without it.
        ("ipo_sum", &[], 7.29, [-5.4, 5.4]),
    ];
    for (objective, flags, value, [chosen, rejected]) in table {
        let flags = [flags, &["--json"]].concat();
        let rows = format!("{}\n{}\n{}\n", row(0.5), pair(), row(0.0));
        let ran = loss(objective, &rows, &flags);
        let unused = ran.stderr.contains("no use for the column `margin`");
        assert_eq!(unused, objective == "ipo_sum", "{}", ran.stderr);
        let report = ran.json();
        let first = &report["rows"][0];
        assert_near(objective, &first["loss"], value);
        assert_near(objective, &first["gradient"]["policy_chosen"], chosen);
        assert_near(objective, &first["gradient"]["policy_rejected"], rejected);
        // Rows that ask for none are those of a table without the column.
        let plain = loss(objective, &format!("{}\n", pair()), &flags).json();
        for place in [1, 2] {
            assert_eq!(report["rows"][place]["loss"], plain["rows"][0]["loss"]);
            assert_eq!(
                report["rows"][place]["gradient"],
                plain["rows"][0]["gradient"]
            );
        }
    }
    let mut wrong = pair();
    wrong["margin"] = json!("much");
    loss("dpo", &format!("{}\n{wrong}\n", row(1.0)), &[])
        .refused(&["line 2", "`margin` is not a number"]);
    let listed = run(&["--list"]).stdout;
    assert!(
        listed.contains("length_rejected, margin (optional)"),
        "{listed}"
    );
}

#[test]
fn objectives_on_lists_give_the_worked_values_for_lists_of_any_length() {
    let two = json!({"policy": [-20.0, -12.0], "length": [8, 6], "reward": [0.0, 2.5]});
    let table = format!("{}\n\n{two}\n", ranked());
    let report = loss("pro", &table, &["--sft-weight=0", "--json"]).json();
    assert_near("pro", &report["rows"][0]["loss"], 3.445984901388);
    let second = &report["rows"][1];
    assert_eq!(second["line"], 3);
    assert_near("pro of two", &second["loss"], 0.251929081345);
    assert_near(
        "worse",
        &second["gradient"]["policy"][0],
        0.06959379338290902,
    );
    assert_near(
        "better",
        &second["gradient"]["policy"][1],
        -0.09279172451054529,
    );
    let report = loss("pro", &table, &["--json"]).json();
    assert_near("pro", &report["rows"][0]["loss"], 5.845984901388);
    let report = loss("brain", &ranked().to_string(), &["--json"]).json();
    assert_near("brain", &report["rows"][0]["loss"], 0.094624923484);
    let gradient = &report["rows"][0]["gradient"]["policy"];
    assert_near("brain", &gradient[2], 0.1996677713207975);
}

#[test]
fn objectives_on_single_responses_give_the_worked_values() {
    let single = |policy: f64, reference: f64, desirable: Value, mismatched: f64| {
        json!({"policy": policy, "reference": reference, "desirable": desirable,
               "mismatched": mismatched, "length": 6})
        .to_string()
    };
    let table = [
        single(-12.0, -13.5, json!(true), 0.4),
        single(-20.0, -19.2, json!(0), -0.1),
        single(-20.0, -19.2, json!(false), 0.3),
    ]
    .join("\n");
    let report = loss("kto", &table, &["--undesirable-weight=1.5", "--json"]).json();
    assert_near("desirable", &report["rows"][0]["loss"], 0.467545693613);
    assert_near(
        "undesirable",
        &report["rows"][1]["loss"],
        1.5 * 0.475020812521,
    );
    let gradient = &report["rows"][2]["gradient"]["policy"];
    assert_near("undesirable", gradient, 2.0 * 0.018703203014466898);
    let report = loss("sft", &table, &["--json"]).json();
    assert_near("sft", &report["rows"][0]["loss"], 2.0);
    assert_near("sft", &report["rows"][0]["gradient"]["policy"], -1.0 / 6.0);
}

#[test]
fn people_get_a_table_with_a_mean() {
    let ran = loss("dpo", &format!("{}\n{}\n", pair(), pair()), &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines,
        [
            vec!["line", "loss", "d/policy_chosen", "d/policy_rejected"],
            vec!["1", "0.5847451567", "-0.0442752145", "0.0442752145"],
            vec!["2", "0.5847451567", "-0.0442752145", "0.0442752145"],
            vec!["mean", "0.5847451567"],
        ]
    );
}

#[test]
fn the_list_names_every_objective_with_columns_and_defaults() {
    let ran = run(&["--list"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout
            .contains("simpo\n  columns: policy_chosen, policy_rejected, length_chosen")
    );
    assert!(
        ran.stdout
            .contains("defaults: --beta 2 --gamma-beta-ratio 0.25")
    );
    assert!(
        ran.stdout
            .contains("brain\n  columns (lists): policy, prior")
    );
}

#[test]
fn wrong_cells_are_named_with_their_line() {
    let with = |key: &str, value: &str| {
        let mut row = pair();
        row[key] = json!("VALUE");
        format!(
            "{}\n{}\n",
            pair(),
            row.to_string().replace("\"VALUE\"", value)
        )
    };
    for (value, message) in [
        ("NaN", "line 2: not a JSON object"),
        ("1e999", "line 2: not a JSON object"),
        ("null", "line 2: `policy_chosen` is not a number: null"),
        ("\"-12\"", "line 2: `policy_chosen` is not a number"),
        ("[-12.0]", "line 2: `policy_chosen` is not a number"),
        ("0.5", "line 2: `policy_chosen` is not a log-probability"),
    ] {
        loss("dpo", &with("policy_chosen", value), &[]).refused(&[message]);
    }
    loss("simpo", &with("length_chosen", "0"), &[]).refused(&["line 2: `length_chosen` is not a"]);
    loss("simpo", &with("length_chosen", "2.5"), &[]).refused(&["line 2: `length_chosen`"]);
    loss("sppo", &with("win_chosen", "1.5"), &[]).refused(&["line 2: `win_chosen` is not a prob"]);
    loss("tdpo1", &with("token_kl_chosen", "-1"), &[]).refused(&["line 2: `token_kl_chosen`"]);
    loss("ipo_sum", &with("policy_chosen", "-1e200"), &[])
        .refused(&["line 2: `ipo_sum`", "overflows"]);
    let table = format!("{}\n\n{}", pair(), json!({"policy_chosen": -1.0}));
    loss("dpo", &table, &[]).refused(&[
        "line 3: `policy_rejected` is missing",
        "hint: `dpo` reads the columns policy_chosen, policy_rejected, reference_chosen",
    ]);
    loss("dpo", "[1, 2]\n", &[]).refused(&["line 1: not a JSON object"]);
    loss("dpo", "\n \n", &[]).refused(&["there are no rows"]);
}

#[test]
fn wrong_lists_are_named_with_their_line() {
    let with = |key: &str, value: Value| {
        let mut row = ranked();
        row[key] = value;
        format!("{}\n{row}\n", ranked())
    };
    for (key, value, message) in [
        ("policy", json!(-1.0), "line 2: `policy` is not a list"),
        ("policy", json!([-1.0]), "line 2: `policy` has fewer than 2"),
        (
            "length",
            json!([1, 2]),
            "line 2: `length` has 2 entries, `policy` has 3",
        ),
        (
            "length",
            json!([1, 2, 0]),
            "line 2: `length` is not a number of tokens",
        ),
        (
            "reward",
            json!([1, 1, 1]),
            "line 2: `reward` is 1 for every response",
        ),
    ] {
        loss("pro", &with(key, value), &[]).refused(&[message]);
    }
}

#[test]
fn wrong_names_and_numbers_are_refused() {
    let table = pair().to_string();
    loss("simpoo", &table, &[])
        .refused(&["no objective `simpoo`; did you mean `simpo`?", "--list"]);
    loss("", &table, &[]).refused(&["there is no objective ``", "--list"]);
    loss("dpo", &table, &["--tau=1", "--gamma=2"]).refused(&["`dpo` has no `--tau`", "`--gamma`"]);
    for (objective, flag, message) in [
        ("dpo", "--beta=0", "must be above 0"),
        ("dpo", "--beta=NaN", "must be above 0"),
        ("dpo", "--beta=inf", "must be above 0"),
        ("rdpo", "--label-smoothing=0.5", "below 0.5"),
        ("fdpo_alpha", "--alpha=1.1", "must be 0 to 1"),
        ("tdpo2", "--alpha=-1", "must be at least 0"),
        ("inpo", "--tau=0.01", "must be 0 to 0.005"),
    ] {
        loss(objective, &table, &[flag]).refused(&[message]);
    }
    run(&["--objective", "dpo", "--input", "/nowhere/table.jsonl"]).refused(&["/nowhere/table"]);
    run(&["--objective", "dpo"]).refused(&["--input"]);
}
