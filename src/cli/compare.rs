//! `preftune compare`: pairs by hand, on a page in the browser.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::json;

use crate::cli::output::{check_folder_of, print_json};
use crate::cli::shell::listen;
use crate::cli::table;
use crate::error::{Error, Result};
use crate::jobs::compare::figures::{Figures, OfJudge, Share};
use crate::jobs::compare::items::Items;
use crate::jobs::compare::outcome::{PAIRS_FILE, Written, check_out};
use crate::jobs::compare::server::Server;
use crate::jobs::compare::session::Session;
use crate::jobs::compare::sources::session_folder;

/// The program that opens an address in the browser.
const OPENER: &str = if cfg!(target_os = "macos") {
    "open"
} else {
    "xdg-open"
};

#[derive(Args)]
pub(super) struct CompareArgs {
    /// A folder of images, several of each prompt: those of a prompt are compared with each other. A run on images or texts: its
    /// untuned model with its tuned one. Several runs or folders: images of the same prompts and seeds. Files of answers: those
    /// to the same prompts.
    #[arg(required = true, value_name = "FOLDER")]
    paths: Vec<PathBuf>,
    /// Folder that keeps every key; a session that is there goes on [default: `compare` in the last folder; of a run
    /// `eval/compare`, where `report` finds it; where several are compared, with the names of the others: `compare_OTHER`].
    #[arg(long, value_name = "FOLDER")]
    session: Option<PathBuf>,
    /// Who judges [default: the name of the user]. Give another name to a second person: figures then say how far both agree.
    #[arg(long, value_name = "NAME")]
    judge: Option<String>,
    /// Port on 127.0.0.1 [default: a free one].
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,
    /// Do not open the browser.
    #[arg(long)]
    no_open: bool,
    /// Pairs to train on [default: `pairs.jsonl` in the session's folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the figures as JSON on stdout.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let folder = args
        .session
        .clone()
        .unwrap_or_else(|| session_folder(&args.paths));
    let out = args.out.clone().unwrap_or_else(|| folder.join(PAIRS_FILE));
    if let Some(out) = &args.out {
        check_folder_of(out, "--out")?;
        check_out(out, &folder)?;
    }
    let judge = args.judge.clone().unwrap_or_else(user);
    if judge.trim().is_empty() {
        return Err(Error::config("`--judge` is empty: give a name"));
    }
    let session = Session::open(Items::open(&args.paths)?, &folder, &judge)?;
    for note in session.notes() {
        eprintln!("note: {note}");
    }
    let (done, total) = session.progress();
    eprintln!(
        "{done} of {total} pairs are done by {judge}; every key is kept in {}",
        folder.display()
    );
    let server = Server::open(session, &out, args.port)?;
    let interrupt = listen()?;
    eprintln!("the page is at {}", server.address());
    eprintln!("Ctrl-C ends");
    if !args.no_open {
        open(&server.address());
    }
    let written = server.serve(&interrupt)?;
    if args.json {
        print_json(&json!({
            "pairs": written.pairs, "rows": written.rows, "ties": written.ties, "command": written.command,
            "reward_command": written.reward_command,
            "figures": written.figures, "rankings": written.rankings,
        }));
    } else {
        show(&written);
    }
    Ok(())
}

/// The name that the system knows the user by.
fn user() -> String {
    let name = ["USER", "USERNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    name.filter(|name| !name.trim().is_empty())
        .unwrap_or_else(|| "judge".to_owned())
}

fn open(address: &str) {
    let mut command = Command::new(OPENER);
    command
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if command.spawn().is_err() {
        eprintln!(
            "note: `{OPENER}` is not there, so no browser was opened: open the address yourself"
        );
    }
}

fn show(written: &Written) {
    let Figures {
        judges,
        alpha,
        shared,
        sources,
    } = &written.figures;
    let header = [
        "judge",
        "keys",
        "ties",
        "both bad",
        "skipped",
        "as before",
        "flips",
        "left side",
        "seconds",
    ];
    let rows = judges.iter().map(row);
    print!(
        "{}",
        table::render(&header.map(str::to_owned), &rows.collect::<Vec<_>>())
    );
    if let Some(alpha) = alpha {
        println!("Krippendorff's alpha {alpha:.2} over {shared} pairs that several judges saw");
    }
    if sources.iter().any(|source| source.win_rate.is_some()) {
        println!(
            "win rates are of the first answer to each match-up; pairs have the mean of all answers"
        );
    }
    for source in sources {
        let Some(win_rate) = source.win_rate else {
            continue;
        };
        let [low, high] = source.interval;
        let settled = if source.settled {
            "settled"
        } else {
            "not settled"
        };
        println!(
            "{} against {}: win rate {win_rate:.3} [{low:.3}, {high:.3}], {settled}; {} won, {} lost, {} ties",
            source.name, source.against, source.wins, source.losses, source.ties
        );
    }
    if let (Some(pairs), Some(command)) = (&written.pairs, &written.command) {
        println!(
            "{}: {} pairs, {} of them ties",
            pairs.display(),
            written.rows,
            written.ties
        );
        println!("train on them: {command}");
    }
    if written.pairs.is_some() && written.command.is_none() {
        println!("nothing to train on: all pairs are ties");
    }
    if let Some(command) = &written.reward_command {
        println!("train a reward on them: {command}");
    }
}

fn row(judge: &OfJudge) -> Vec<String> {
    let share = |share: Option<Share>| {
        share.map_or_else(
            || "-".to_owned(),
            |Share {
                 share,
                 interval: [low, high],
                 ..
             }| format!("{share:.2} [{low:.2}, {high:.2}]"),
        )
    };
    vec![
        judge.judge.clone(),
        judge.keys.to_string(),
        judge.ties.to_string(),
        judge.both_bad.to_string(),
        judge.skipped.to_string(),
        share(judge.self_agreement),
        format!("{} of {}", judge.flips, judge.repeats),
        share(judge.left),
        judge
            .seconds
            .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}")),
    ]
}
