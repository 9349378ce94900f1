//! Records of earlier rounds that are learnt from again.

use std::fs;

use crate::iterate::{Folder, LENGTH, cut, remove};

const MORE: [&str; 3] = [
    "rounds.count=3",
    "rounds.replay=[0.5, 0.3]",
    "labels.pairs=all",
];
const OBJECTIVE: &str = "kind = \"dno_prct\"";

fn lines(folder: &Folder, run: &str, round: u64, file: &str) -> Vec<String> {
    let path = folder.path(run).join(format!("round-{round}/{file}.jsonl"));
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn records_of_earlier_rounds_come_again() {
    let folder = Folder::new();
    let config = folder.config("whole", LENGTH, OBJECTIVE);
    folder.iterate(&config, &MORE).done();
    let own: Vec<Vec<String>> = (1..=3)
        .map(|round| lines(&folder, "whole", round, "records"))
        .collect();
    let metrics = folder.rows("whole/metrics.jsonl");
    assert!(!folder.path("whole/round-1/with_replay.jsonl").exists());
    assert_eq!(metrics[1]["replayed"], 0.0);
    let share = |share: f64, round: usize| (share * own[round].len() as f64) as usize;
    for (round, drawn) in [
        (2, vec![(0, share(0.5, 0))]),
        (3, vec![(1, share(0.5, 1)), (0, share(0.3, 0))]),
    ] {
        let learnt = lines(&folder, "whole", round, "with_replay");
        let (new, old) = learnt.split_at(own[round as usize - 1].len());
        assert_eq!(new, own[round as usize - 1]);
        let mut rest = old;
        for (earlier, count) in drawn {
            let (part, after) = rest.split_at(count);
            rest = after;
            // A part of that round's records, each once, in their order.
            let mut places = own[earlier].iter();
            assert!(
                count > 0 && part.iter().all(|line| places.any(|known| known == line)),
                "round {round}: {part:?}"
            );
        }
        assert!(rest.is_empty());
        let row = &metrics[round as usize];
        assert_eq!(row["replayed"], old.len() as f64);
        assert_eq!(row["records"], new.len() as f64);
        let text = folder
            .path("whole")
            .join(format!("round-{round}/train/config.toml"));
        let text = fs::read_to_string(text).unwrap();
        assert!(text.contains("with_replay.jsonl"), "{text}");
    }
    // Another seed draws others.
    let again = [&MORE[..], &["run.output=other", "run.seed=5"]].concat();
    folder.iterate(&config, &again).done();
    assert_ne!(
        lines(&folder, "whole", 2, "with_replay"),
        lines(&folder, "other", 2, "with_replay")
    );

    // A kill in any phase of the last round changes nothing.
    for phase in ["answers", "scores", "records", "train"] {
        let config = folder.config(phase, LENGTH, OBJECTIVE);
        folder.iterate(&config, &MORE).done();
        let run = folder.path(phase);
        let round = run.join("round-3");
        for file in ["judged.jsonl", "validation.jsonl", "metrics.json", "model"] {
            remove(round.join(file));
        }
        remove(run.join("metrics.jsonl"));
        match phase {
            "train" => {
                let manifest = round.join("train/manifest.json");
                let text = fs::read_to_string(&manifest).unwrap();
                fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
                let mut steps: Vec<_> = fs::read_dir(round.join("train/checkpoints"))
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
                    .collect();
                steps.sort();
                remove(steps.pop().unwrap());
            }
            phase => {
                for file in ["train", "with_replay.jsonl", "records.jsonl"] {
                    remove(round.join(file));
                }
                match phase {
                    "answers" => {
                        remove(round.join("scores.jsonl"));
                        cut(&round, "answers.jsonl", 200);
                    }
                    "scores" => cut(&round, "scores.jsonl", 100),
                    _ => {}
                }
            }
        }
        folder
            .iterate(&config, &[&MORE[..], &["--resume"]].concat())
            .done();
        for file in [
            "round-3/records.jsonl",
            "round-3/with_replay.jsonl",
            "round-3/model/model.safetensors",
            "metrics.jsonl",
        ] {
            let read = |run: &str| fs::read(folder.path(run).join(file)).unwrap();
            assert_eq!(read("whole"), read(phase), "{phase}: {file}");
        }
    }
}

#[test]
fn shares_that_are_none_are_refused() {
    let folder = Folder::new();
    let config = folder.config("bad", LENGTH, OBJECTIVE);
    for share in ["[1.5]", "[0.3, -0.1]"] {
        folder
            .iterate(&config, &[&format!("rounds.replay={share}")])
            .refused("`rounds.replay` must be shares between 0 and 1");
    }
}

#[test]
fn the_papers_configuration_runs() {
    let folder = Folder::new();
    let words = ["Say", "Sing a", "The sky", "Water", "Two", "Hi", "So", "Go"];
    let rows = words.map(|words| serde_json::json!({"prompt": words, "completion": "abc"}));
    folder.lines("prompts.jsonl", &rows);
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/text/dno_prct.toml");
    let model = crate::support::golden("text/model");
    let model = format!("model.base={}", crate::command::quoted(&model));
    let more = [
        &model,
        "run.device=cpu",
        "data.prompts=prompts.jsonl",
        "data.validation_share=0.3",
        "scorer.kind=length",
        "scorer.target=3",
        "labels.min_reward=-0.5",
        "labels.reward_gap=0.2",
        "labels.own_reward_gap=0.1",
        "labels.must_end=false",
        "generate.max_tokens=6",
        "rounds.count=2",
        "train.steps=1",
    ];
    folder.iterate(config, &more).done();
    assert!(
        folder
            .path("runs/dno-prct/round-2/with_replay.jsonl")
            .exists()
    );
}
