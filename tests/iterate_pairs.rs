//! Which answers of a round become pairs: by win probability, percentile and margin, with an answer that the data bring along,
//! without those that repeat themselves or do not end.

use preftune::models::lm::LmConfig;
use preftune::models::lm::tokenizer::TextTokenizer;
use preftune::rewards::comparable::{Choice, of_answers};
use preftune::rewards::pairs::{Candidates, Margins, Percentiles};
use preftune::rewards::pool::{Pool, Verdict};
use preftune::rewards::repetition::repetition;
use preftune::rewards::transform::{Reference, Transform};
use serde_json::{Value, json};

use crate::iterate::{Folder, LENGTH};
use crate::support::golden;

fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    }
}

fn of_rewards(rewards: &[f64]) -> Pool {
    Pool::new(&Verdict::Rewards(rewards.to_vec()), 1.0)
}

fn candidates(pool: &Pool, among: &[usize], margins: Margins) -> Candidates {
    Candidates::new(pool.clone(), among.to_vec(), Vec::new(), None, margins)
}

fn gap(min_gap: f64) -> Margins {
    Margins {
        min_gap,
        ..Margins::default()
    }
}

#[test]
fn pools_become_win_probabilities_and_log_odds() {
    // Worked by hand: sigmoid(1) = 0.7310585786300049, sigmoid(2) = 0.8807970779778823.
    let pool = Pool::new(&Verdict::Rewards(vec![2.0, 0.0, -2.0]), 2.0);
    let (one, two) = (0.731_058_578_630_004_9, 0.880_797_077_977_882_3);
    near(
        &pool.wins,
        &[(0.5 + one + two) / 3.0, 0.5, (2.5 - one - two) / 3.0],
    );
    near(&pool.log_odds, &[1.0, 0.0, -1.0]);
    let all = candidates(&pool, &[0, 1, 2], gap(0.0));
    assert_eq!(all.best_worst(), Some((0, 2)));
    assert_eq!(all.pairs(), [(0, 1), (0, 2), (1, 2)]);
    assert_eq!(candidates(&pool, &[1, 2], gap(0.3)).best_worst(), None);
    // A cycle: all win as often, and there is no pair.
    let cycle = vec![
        vec![0.5, 0.9, 0.1],
        vec![0.1, 0.5, 0.9],
        vec![0.9, 0.1, 0.5],
    ];
    let pool = Pool::new(&Verdict::Preferences(cycle), 1.0);
    near(&pool.wins, &[0.5; 3]);
    near(&pool.log_odds, &[0.0; 3]);
    assert_eq!(candidates(&pool, &[0, 1, 2], gap(1e-9)).best_worst(), None);
    // The general preference model's worked example: scores over tau and their pool means.
    let scores = [[0.0, -8.0, 6.0], [8.0, 0.0, 10.0], [-6.0, -10.0, 0.0]];
    let sure = (0.99f64 / 0.01).ln();
    let row = |row: [f64; 3]| row.map(|score: f64| 1.0 / (1.0 + (-score).exp())).to_vec();
    let pool = Pool::new(&Verdict::Preferences(scores.map(row).to_vec()), 1.0);
    near(&pool.log_odds, &[0.0, 2.0 * sure / 3.0, -2.0 * sure / 3.0]);
}

#[test]
fn pairs_are_taken_from_both_ends_of_a_pool() {
    let ends = |positive: f64, negative: f64| Percentiles { positive, negative };
    let six = of_rewards(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
    let all = [0, 1, 2, 3, 4, 5];
    let none = Margins::default();
    let far = candidates(&six, &all, none).far_apart(ends(0.8, 0.2));
    assert_eq!(far, [(0, 4), (0, 5), (1, 4), (1, 5)]);
    // Equal answers are all at the top, and none of them is rejected for another.
    let tied = of_rewards(&[6.0, 6.0, 6.0, 6.0, 2.0, 2.0]);
    let far = candidates(&tied, &all, none).far_apart(ends(0.8, 0.2));
    assert_eq!(far.len(), 8);
    assert!(
        far.iter()
            .all(|&(chosen, rejected)| chosen < 4 && rejected > 3)
    );
    let same = of_rewards(&[3.0; 6]);
    assert!(
        candidates(&same, &all, none)
            .far_apart(ends(0.8, 0.2))
            .is_empty()
    );
    // An answer that is no part of a record is none of the others either.
    let far = candidates(&six, &[2, 3, 4], none).far_apart(ends(1.0, 0.0));
    assert_eq!(far, [(2, 4)]);
}

#[test]
fn margins_are_those_of_points() {
    // DNO-Prct: five points of six, and two more than the rejected answer; one where the policy's own is preferred.
    let margins = Margins {
        min_gap: 0.0,
        min_reward: Some(5.0),
        reward_gap: Some(2.0),
        own_reward_gap: Some(1.0),
    };
    let pool = of_rewards(&[6.0, 5.0, 4.0, 5.0]);
    let pairs = |gold: Option<usize>| {
        Candidates::new(pool.clone(), vec![0, 1, 2, 3], Vec::new(), gold, margins).pairs()
    };
    assert_eq!(pairs(None), [(0, 1), (0, 2), (0, 3), (1, 2), (3, 2)]);
    assert_eq!(pairs(Some(0)), [(0, 2), (1, 2), (3, 2)]);
    assert_eq!(pairs(Some(3)), [(0, 1), (0, 2), (0, 3), (1, 2)]);
    let low = of_rewards(&[4.9, 1.0]);
    assert_eq!(candidates(&low, &[0, 1], margins).best_worst(), None);
}

#[test]
fn a_spoilt_answer_is_the_worst_whatever_the_judge_says() {
    let pool = of_rewards(&[9.0, 3.0, 1.0]);
    let wide = Margins {
        reward_gap: Some(100.0),
        ..gap(0.9)
    };
    let with = |spoilt: &[usize], margins: Margins| {
        Candidates::new(pool.clone(), vec![0, 1, 2], spoilt.to_vec(), None, margins)
    };
    let first = with(&[0], Margins::default());
    assert_eq!(first.best_worst(), Some((1, 0)));
    assert_eq!(first.pool().rewards, [1.0, 3.0, 1.0]);
    near(&[first.pool().wins[0]], &[pool.wins[2]]);
    near(&[first.pool().log_odds[0]], &[pool.log_odds[2]]);
    // No margin is asked for, and no place in the pool; of two spoilt ones neither is preferred.
    assert_eq!(with(&[0], wide).pairs(), [(1, 0), (2, 0)]);
    let ends = Percentiles {
        positive: 1.0,
        negative: 0.0,
    };
    assert_eq!(with(&[0], wide).far_apart(ends), [(1, 0)]);
    assert_eq!(with(&[0, 2], wide).pairs(), [(1, 0), (1, 2)]);
    assert_eq!(with(&[0, 1, 2], wide).best_worst(), None);
    assert!(with(&[0, 1, 2], wide).pairs().is_empty());
}

#[test]
fn repetition_counts_runs_of_four() {
    near(&[repetition(&[1, 2, 3, 4, 5])], &[0.0]);
    near(&[repetition(&[7; 7])], &[0.75]);
    near(&[repetition(&[1, 2, 3])], &[0.0]);
    // 1 2 1 2 1 2: runs 1212, 2121, 1212.
    near(&[repetition(&[1, 2, 1, 2, 1, 2])], &[1.0 / 3.0]);
}

/// Prompts that bring an answer along.
fn with_gold(folder: &Folder) {
    let words = ["Say", "Sing a", "The sky", "Water", "Two", "Hi", "So", "Go"];
    let rows = words.iter().enumerate().map(|(place, words)| match place {
        // As a completion and as the chosen answer of a pair, in words and as messages.
        0..4 => json!({"prompt": words, "completion": "abc"}),
        4..6 => json!({"prompt": words, "chosen": "abc", "rejected": "something long"}),
        _ => json!({"prompt": words, "response": [{"role": "assistant", "content": "abc"}]}),
    });
    folder.lines("prompts.jsonl", &rows.collect::<Vec<_>>());
}

#[test]
fn gold_answers_are_judged_and_learnt_from_beside_the_policys_own() {
    let folder = Folder::new();
    with_gold(&folder);
    let gold = [
        "labels.gold=true",
        "labels.pairs=percentile",
        "labels.positive=0.75",
        "labels.negative=0.5",
    ];
    for kind in ["dno_prct", "sppo", "gpo"] {
        let config = folder.config(kind, LENGTH, &format!("kind = \"{kind}\""));
        folder
            .iterate(&config, &[&gold[..], &["train.steps=1"]].concat())
            .done();
        let mut preferred = 0;
        let mut expected = Vec::new();
        let round = |file: &str| folder.rows(&format!("{kind}/round-1/{file}.jsonl"));
        for (answers, scores) in round("answers").iter().zip(round("scores")) {
            let mut texts: Vec<String> =
                serde_json::from_value(answers["responses"].clone()).unwrap();
            texts.push("abc".to_owned());
            let rewards: Vec<f64> = serde_json::from_value(scores["rewards"].clone()).unwrap();
            assert_eq!((texts.len(), rewards.len(), rewards[4]), (5, 5, 0.0));
            // Rewards of one scale: who wins more often has more.
            let there: Vec<usize> = (0..5).filter(|&at| !texts[at].trim().is_empty()).collect();
            let share = |at: usize, holds: &dyn Fn(f64) -> bool| {
                let others: Vec<f64> = there
                    .iter()
                    .filter(|&&other| other != at)
                    .map(|&other| rewards[other])
                    .collect();
                others.iter().filter(|&&other| holds(other)).count() as f64 / others.len() as f64
            };
            for &one in &there {
                for &other in &there {
                    if rewards[one] > rewards[other]
                        && share(one, &|reward| rewards[one] >= reward) >= 0.75
                        && share(other, &|reward| rewards[other] > reward) <= 0.5
                    {
                        expected.push((texts[one].clone(), texts[other].clone()));
                    }
                }
            }
        }
        let records = round("records");
        let found: Vec<(String, String)> = records
            .iter()
            .map(|row| {
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                preferred += usize::from(text("chosen") == "abc");
                (text("chosen"), text("rejected"))
            })
            .collect();
        assert_eq!(found, expected, "{kind}");
        assert!(preferred > 0, "{kind}");
    }
    // Only the answers of policies are compared.
    let judged = folder.rows("sppo/round-2/judged.jsonl");
    assert_eq!(judged[0]["rewards"].as_array().unwrap().len(), 1);
    // With a transform, the first policy's answers alone say what is good enough.
    let model = golden("reward/rated");
    let scorer = format!(
        "kind = \"model\"\nmodel = {}\ntransform = \"log-sigmoid\"\nreference = \"mean\"",
        crate::command::quoted(&model)
    );
    let config = folder.config("centred", &scorer, "kind = \"pro\"");
    let once = ["labels.gold=true", "rounds.count=1", "train.steps=1"];
    folder.iterate(&config, &once).done();
    let scores = folder.rows("centred/round-1/scores.jsonl");
    let all: Vec<Vec<Vec<f64>>> = scores
        .iter()
        .map(|row| serde_json::from_value(row["all"].clone()).unwrap())
        .collect();
    let first: Vec<Vec<Vec<f64>>> = all.iter().map(|answers| answers[..4].to_vec()).collect();
    let choice = Choice::One(Transform::LogSigmoid);
    let expected = of_answers(choice, Reference::Mean, &all, Some(&first), 1.0).unwrap();
    let prompts = folder.rows("prompts.jsonl");
    let records = folder.rows("centred/round-1/records.jsonl");
    assert!(records.len() > 3);
    for record in records {
        let of_record = |row: &Value| {
            let line = row["line"].as_u64().unwrap() as usize;
            prompts[line - 1]["prompt"] == record["prompt"]
        };
        let place = scores.iter().position(of_record).unwrap();
        let found = record["scores"].as_array().unwrap().last().unwrap();
        near(&[found.as_f64().unwrap()], &[expected[place][4]]);
    }
}

#[test]
fn answers_that_repeat_themselves_or_do_not_end_are_never_preferred() {
    let folder = Folder::new();
    // The longest is the best: a policy would learn to run on.
    let config = folder.config("long", "kind = \"length\"\ntarget = 1000", "kind = \"dpo\"");
    let more = [
        "generate.max_tokens=40",
        "generate.temperature=0.5",
        "labels.pairs=all",
        "rounds.count=1",
        "train.steps=1",
    ];
    let base = golden("text/model");
    let tokenizer = TextTokenizer::open(&base, LmConfig::open(&base).unwrap().vocab_size).unwrap();
    let repeats = |text: &str| repetition(&tokenizer.encode(text, false).unwrap()) > 0.1;
    for filter in ["labels.max_repetition=0.1", "labels.must_end=true"] {
        let run = filter.split(['.', '=']).nth(1).unwrap();
        let output = format!("run.output={run}");
        folder
            .iterate(&config, &[&more[..], &[filter, &output]].concat())
            .done();
        let mut spoilt = Vec::new();
        for row in folder.rows(&format!("{run}/round-1/answers.jsonl")) {
            let responses = row["responses"].as_array().unwrap().iter();
            for (text, ended) in responses.zip(row["ended"].as_array().unwrap()) {
                let text = text.as_str().unwrap().to_owned();
                let filtered = if run == "must_end" {
                    *ended == Value::Bool(false)
                } else {
                    repeats(&text)
                };
                if filtered {
                    spoilt.push(text);
                }
            }
        }
        let records = folder.rows(&format!("{run}/round-1/records.jsonl"));
        let is_spoilt = |row: &Value, key: &str| spoilt.iter().any(|text| row[key] == json!(text));
        assert!(records.iter().all(|row| !is_spoilt(row, "chosen")), "{run}");
        assert!(
            records.iter().any(|row| is_spoilt(row, "rejected")),
            "{run}"
        );
        for row in records.iter().filter(|row| is_spoilt(row, "rejected")) {
            assert!(row["chosen_probs_win"].as_f64() >= row["chosen_probs_lose"].as_f64());
        }
    }
}

#[test]
fn bad_choices_of_pairs_are_refused() {
    let folder = Folder::new();
    let config = folder.config("bad", LENGTH, "kind = \"dpo\"");
    let refused = |more: &[&str], message: &str| folder.iterate(&config, more).refused(message);
    refused(
        &["labels.gold=true"],
        "`prompts.jsonl`, line 1: no gold answer, `completion` or `chosen`",
    );
    refused(
        &["labels.positive=0.3", "labels.negative=0.6"],
        "`labels.negative` must be below `labels.positive`",
    );
    refused(
        &["labels.positive=1.5"],
        "`labels.positive` must be between 0 and 1",
    );
    refused(
        &["labels.max_repetition=-1.0"],
        "`labels.max_repetition` must be between 0 and 1",
    );
    refused(
        &["labels.reward_gap=-2.0"],
        "`labels.reward_gap` must be at least 0",
    );
    refused(&["labels.pairs=percentiles"], "percentile");
    refused(
        &["objective.kind=kto", "labels.pairs=percentile"],
        "`kto` does not learn from pairs",
    );
    for one in ["labels.gold=true", "rounds.replay=[0.3]"] {
        let message = "`brain` weighs answers by the policy that has just written them";
        refused(&["objective.kind=brain", one], message);
    }
    for (answer, message) in [
        (json!(" "), "the gold answer in `completion` is empty"),
        (
            json!(3),
            "`completion` is neither text nor a list of messages",
        ),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": [{"name": "search"}]}]),
            "the gold answer in `completion` is not in words alone",
        ),
    ] {
        folder.lines(
            "gold.jsonl",
            &[json!({"prompt": "p", "completion": answer})],
        );
        refused(&["data.prompts=gold.jsonl", "labels.gold=true"], message);
    }
    // Margins that no pair has.
    let ran = folder.iterate(&config, &["labels.min_reward=100.0"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("margins in `[labels]`"),
        "{}",
        ran.stderr
    );
}
