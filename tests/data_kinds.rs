//! Data as others write them: bytes for text, any codec, numbers that are none, weights of turns, splits.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{BrotliLevel, Compression, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use preftune::data::embeddings;
use preftune::data::text::{Read, Reading, Record, Shape, prompts, read_with};
use preftune::models::lm::tokenizer::TextTokenizer;
use serde_json::{Value, json};

use crate::command::Folder;
use crate::support::golden;

/// A column of required values.
enum Column {
    Bytes(Vec<Vec<u8>>),
    Double(Vec<f64>),
}

/// Writes a table whose columns of bytes are not said to be text.
fn table(path: &Path, compression: Compression, columns: &[(&str, Column)]) {
    let fields = columns.iter().map(|(name, column)| match column {
        Column::Bytes(_) => format!("required binary {name};"),
        Column::Double(_) => format!("required double {name};"),
    });
    let schema = format!("message rows {{ {} }}", fields.collect::<String>());
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression);
    let properties = Arc::new(properties.build());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, column) in columns {
        let mut cells = group.next_column().unwrap().unwrap();
        match column {
            Column::Bytes(values) => {
                let values: Vec<ByteArray> = values.iter().cloned().map(Into::into).collect();
                let typed = cells.typed::<ByteArrayType>();
                typed.write_batch(&values, None, None).unwrap();
            }
            Column::Double(values) => {
                let typed = cells.typed::<DoubleType>();
                typed.write_batch(values, None, None).unwrap();
            }
        }
        cells.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

fn texts(name: &str, rows: usize) -> Column {
    let texts = (0..rows).map(|row| format!("{name} {row}").into_bytes());
    Column::Bytes(texts.collect())
}

fn pairs(folder: &Folder, compression: Compression, more: Vec<(&str, Column)>) -> Read<Record> {
    let mut columns: Vec<(&str, Column)> = ["prompt", "chosen", "rejected"]
        .map(|name| (name, texts(name, 12)))
        .into();
    columns.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    columns.extend(more);
    let path = folder.path("pairs.parquet");
    table(&path, compression, &columns);
    read_with(&path, Shape::Pairs, &Reading::default()).unwrap()
}

/// Why rows are left out, of which there is one kind.
fn reason(read: &Read<Record>) -> (usize, String) {
    let [one] = read.notes.left_out.reasons.as_slice() else {
        panic!("{:?}", read.notes.left_out);
    };
    assert!(one.is_fault);
    (one.rows, one.reason.clone())
}

#[test]
fn columns_of_bytes_are_text_by_any_codec() {
    let folder = Folder::new();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4_RAW,
    ] {
        let read = pairs(&folder, compression, Vec::new());
        assert_eq!(read.rows.len(), 12);
        let last = &read.rows[11];
        assert_eq!(last.prompt.words(), Some("prompt 11"));
        assert_eq!(last.answers[0].words(), Some("chosen 11"));
        assert_eq!(last.answers[1].words(), Some("rejected 11"));
    }
}

#[test]
fn bytes_that_are_no_text_are_a_fault_where_they_are_read() {
    let folder = Folder::new();
    let mut bytes: Vec<Vec<u8>> = (0..12).map(|row| vec![b'a', b'0' + row]).collect();
    bytes[3] = vec![0xff, 0xd8];
    let plain = Compression::UNCOMPRESSED;
    let more = vec![("chosen", Column::Bytes(bytes.clone()))];
    let read = pairs(&folder, plain, more);
    let problem = "`chosen` is 2 bytes that are not UTF-8 text".to_owned();
    assert_eq!(reason(&read), (1, problem));
    // A picture beside the texts matters to nobody, and is named.
    let read = pairs(&folder, plain, vec![("picture", Column::Bytes(bytes))]);
    assert_eq!(read.rows.len(), 12);
    assert_eq!(read.notes.unused, ["picture"]);
}

#[test]
fn numbers_that_are_not_finite_are_faults_of_their_rows_where_they_are_read() {
    let folder = Folder::new();
    let plain = Compression::UNCOMPRESSED;
    for (odd, words) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let mut numbers = vec![1.0; 12];
        numbers[5] = odd;
        let read = pairs(
            &folder,
            plain,
            vec![("note", Column::Double(numbers.clone()))],
        );
        assert_eq!(read.rows.len(), 12);
        assert_eq!(read.notes.unused, ["note"]);
        for name in ["weight", "margin"] {
            let more = vec![(name, Column::Double(numbers.clone()))];
            let read = pairs(&folder, plain, more);
            let problem = format!("`{name}` is {words}, not a finite number");
            assert_eq!(reason(&read), (1, problem));
            assert_eq!(read.rows.len(), 11);
        }
    }
}

#[test]
fn one_faulty_prompt_among_many_is_left_out_and_counted() {
    let folder = Folder::new();
    let mut rows: Vec<Value> = (0..12)
        .map(|row| json!({"prompt": format!("q {row}")}))
        .collect();
    rows[4]["prompt"] = json!("");
    folder.lines("prompts.jsonl", &rows);
    let read = prompts(&folder.path("prompts.jsonl"), &Reading::default()).unwrap();
    assert_eq!(read.rows.len(), 11);
    let lines = read.notes.lines().join("\n");
    assert!(lines.contains("1 row: the prompt is empty"), "{lines}");
    // A tenth is too many.
    rows[5]["prompt"] = json!("");
    folder.lines("prompts.jsonl", &rows);
    let refused = prompts(&folder.path("prompts.jsonl"), &Reading::default()).unwrap_err();
    assert!(refused.to_string().contains("2 of 12 rows"), "{refused}");
}

/// A chat of three answers with these weights, where there are any.
fn chat(weights: [Value; 3]) -> Value {
    let mut messages = Vec::new();
    for (place, weight) in weights.into_iter().enumerate() {
        messages.push(json!({"role": "user", "content": format!("q{place}")}));
        messages.push(
            json!({"role": "assistant", "content": format!("yes {place}"), "weight": weight}),
        );
    }
    json!({ "messages": messages })
}

#[test]
fn turns_of_weight_0_are_read_and_not_scored() {
    let folder = Folder::new();
    let tokenizer = TextTokenizer::open(&golden("text/model"), 4096).unwrap();
    let read = |weights: [Value; 3], all_turns: bool| {
        folder.lines("chats.jsonl", &[chat(weights)]);
        let reading = Reading {
            all_turns,
            ..Reading::default()
        };
        read_with(&folder.path("chats.jsonl"), Shape::Answers, &reading).unwrap()
    };
    let scored = |weights: [Value; 3]| {
        let read = read(weights, true);
        let record = read.rows.first().unwrap();
        let messages =
            |text: &preftune::data::text::Text| text.to_value().as_array().unwrap().clone();
        let (prompt, answer) = (messages(&record.prompt), messages(&record.answers[0]));
        let sequence = tokenizer
            .answered_turns(&prompt, &answer, &record.variables)
            .unwrap();
        let ids: Vec<i64> = sequence.scored().map(|at| sequence.ids[at]).collect();
        (
            tokenizer.decode(&ids, true).unwrap(),
            read.notes.weightless_turns,
        )
    };
    let (one, zero) = (json!(1), json!(0));
    let (all, count) = scored([one.clone(), Value::Null, json!(1.0)]);
    assert!(
        ["yes 0", "yes 1", "yes 2"]
            .iter()
            .all(|said| all.contains(said)),
        "{all}"
    );
    assert_eq!(count, 0);
    for unlearnt in 0..3 {
        let mut weights = [one.clone(), one.clone(), one.clone()];
        weights[unlearnt] = zero.clone();
        let (learnt, count) = scored(weights);
        for place in 0..3 {
            let said = learnt.contains(&format!("yes {place}"));
            assert_eq!(said, place != unlearnt, "{unlearnt}: {learnt}");
        }
        assert_eq!(count, 1);
    }
    // Where the last turn alone is learnt, its weight decides; where all are, one must be left.
    let last = read([one.clone(), one.clone(), zero.clone()], false);
    assert!(reason(&last).1.contains("has weight 0"));
    let none = read([zero.clone(), zero.clone(), zero], true);
    assert!(reason(&none).1.contains("has weight 0"));
    let half = read([json!(0.5), one.clone(), one], true);
    assert!(
        reason(&half)
            .1
            .contains("neither 1 (learnt) nor 0 (read alone)")
    );
}

#[test]
fn embeddings_may_be_whole_numbers_of_any_width() {
    let folder = Folder::new();
    let path = folder.path("embeddings.parquet");
    for kind in ["INT_8", "INT_16", "INT_32", "UINT_8", "UINT_16", "UINT_32"] {
        let schema = format!(
            "message rows {{ required group embedding (LIST) {{ repeated group list {{ required int32 element ({kind}); }} }} }}"
        );
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let file = File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut cells = group.next_column().unwrap().unwrap();
        let typed = cells.typed::<Int32Type>();
        let (defined, repeated) = ([1; 4], [0, 1, 0, 1]);
        typed
            .write_batch(&[1, 2, 3, 4], Some(&defined), Some(&repeated))
            .unwrap();
        cells.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let read = embeddings::read(&path).unwrap().responses;
        assert_eq!(
            (read.width, read.values),
            (2, vec![1.0, 2.0, 3.0, 4.0]),
            "{kind}"
        );
    }
}

#[test]
fn a_column_of_points_is_told_without_empty_brackets() {
    let folder = Folder::new();
    let rows = "left,right,score\na,b,0.5\nb,c,1.5\na,c,1.25\n";
    fs::write(folder.path("points.csv"), rows).unwrap();
    let ran = folder.binary(&["rank", "--input", "points.csv", "--winner", "score"]);
    ran.refused(
        "column `score` holds numbers (others in 3), and nothing says which item they mean",
    );
    assert!(ran.stderr.contains("points"), "{}", ran.stderr);
}

#[test]
fn texts_are_scored_with_weights_and_splits_named_as_unused() {
    let folder = Folder::new();
    let row = |split: &str| json!({"prompt": "q", "chosen": "good", "rejected": "bad", "weight": 2, "split": split, "margin": 1});
    folder.lines("pairs.jsonl", &[row("train"), row("test")]);
    let ran = folder
        .binary(&["score", "--data", "pairs.jsonl", "--reward", "sentiment"])
        .done();
    for words in [
        "columns that are not used: `margin`, `split`",
        "`weight` is not used: every row counts once",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn a_run_is_judged_on_held_out_pairs_alone_and_says_what_it_leaves_out() {
    let folder = Folder::new();
    let base = crate::command::quoted(&golden("text/model"));
    let data = crate::command::quoted(&golden("text/pairs.jsonl"));
    let config = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {base}\n[data]\ntrain = {data}\n[adapter]\nkind = \"lora\"\n\
         [train]\nsteps = 1\nbatch = 1\n[validation]\nevery = 0\npatience = 0\n"
    );
    fs::write(folder.path("run.toml"), config).unwrap();
    folder.binary(&["train", "run.toml", "--quiet"]).done();
    let row = |place: usize, split: &str| json!({"prompt": format!("q {place}"), "chosen": "good", "rejected": "bad", "weight": 2, "note": 1, "split": split});
    let judge = || {
        let ran = folder.binary(&[
            "eval", "text", "run", "--device", "cpu", "--data", "pairs", "--json",
        ]);
        let ran = ran.done();
        (ran.json(), ran.stderr)
    };
    fs::create_dir(folder.path("pairs")).unwrap();
    let learnt: Vec<Value> = (0..8).map(|place| row(place, "train")).collect();
    let mut held_out: Vec<Value> = (8..14).map(|place| row(place, "test")).collect();
    held_out.push(json!({"prompt": "", "chosen": "good", "rejected": "bad"}));
    folder.lines("pairs/train-0.jsonl", &learnt);
    folder.lines("pairs/test-0.jsonl", &held_out);
    let (report, said) = judge();
    assert_eq!(report["protocol"]["pairs"], 6);
    assert_eq!(report["protocol"]["left_out"], 9);
    for words in [
        "15 rows of 2 files: `test-0.jsonl`, `train-0.jsonl`",
        "columns that are not used: `note`",
        "`weight` is not used: every row counts once",
        "only the 6 pairs that `split` or the names of its files hold out are judged; 8 others are not",
        "left out, 1 row: the prompt is empty",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
