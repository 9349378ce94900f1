//! Progress on stderr: bars on a terminal, a line now and then elsewhere.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::reading;
use crate::data::text::Notes;
use crate::error::printable;
use crate::jobs::Display;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::report::without_numbers;
use crate::trainer::early_stopping::Difference;
use crate::trainer::event::{Event, metric};

/// Shows what a run does.
pub(super) struct Progress {
    bar: Option<(&'static str, ProgressBar)>,
    /// Beginning of the phase, and how much of it was done by then.
    began: (Instant, u64),
    terminal: bool,
    quiet: bool,
    last_line: Instant,
    latest: String,
    /// Kinds of alarms that were said: each is said once, and `metrics.jsonl` has them all.
    alarms: BTreeSet<String>,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            bar: None,
            began: (Instant::now(), 0),
            terminal: std::io::stderr().is_terminal(),
            quiet,
            last_line: Instant::now(),
            latest: String::new(),
            alarms: BTreeSet::new(),
        }
    }

    /// The time that the rest of a phase takes at its speed so far, in words; nothing where it cannot be told.
    fn time_left(&self, done: u64, total: u64) -> String {
        let (since, before) = self.began;
        let made = done.saturating_sub(before);
        if made == 0 || done >= total {
            return String::new();
        }
        let left = since.elapsed().mul_f64((total - done) as f64 / made as f64);
        format!("({} left)", HumanDuration(left))
    }

    /// A line above the bar, and on stderr where there is none.
    fn line(&self, line: &str) {
        match &self.bar {
            Some((_, bar)) if self.terminal => bar.println(printable(line)),
            _ => eprintln!("{line}"),
        }
    }

    fn close(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Display for Progress {
    fn say(&mut self, line: &str) {
        if !self.quiet {
            self.line(line);
        }
    }

    fn warn(&mut self, warning: &str) {
        self.line(&format!("warning: {warning}"));
    }

    fn advance(&mut self, phase: &'static str, done: u64, total: u64) {
        if self.quiet {
            return;
        }
        if self.bar.as_ref().is_none_or(|(known, _)| *known != phase) {
            self.close();
            reading::clear();
            let target = if self.terminal {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            };
            let bar = ProgressBar::with_draw_target(Some(total), target);
            let style = ProgressStyle::with_template(
                "{prefix:<10} {bar:30} {pos}/{len} [{elapsed}<{eta}] {msg}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(phase);
            // What a run before had done took none of this one's time.
            bar.set_position(done);
            bar.reset_eta();
            self.began = (Instant::now(), done);
            self.bar = Some((phase, bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(self.latest.clone());
        }
        let due = done == total || self.last_line.elapsed() > Duration::from_secs(10);
        if !self.terminal && due {
            self.last_line = Instant::now();
            let left = self.time_left(done, total);
            let latest = if phase == "train" { &self.latest } else { "" };
            let said = [latest, &left].map(String::from).into_iter();
            let said: Vec<String> = said.filter(|part| !part.is_empty()).collect();
            eprintln!(
                "{}",
                format!("{phase}: {done}/{total} {}", said.join(" ")).trim_end()
            );
        }
        if done == total {
            self.close();
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Progress { phase, done, total } => self.advance(phase, *done, *total),
            Event::Step { metrics, .. } => {
                if let Some(loss) = metric(metrics, "loss") {
                    self.latest = format!("loss {loss:.4}");
                }
            }
            Event::Validated {
                step,
                validation,
                best,
                difference,
                without_gain: (since, patience),
            } => {
                let figures: Vec<String> = validation
                    .metrics
                    .iter()
                    .filter(|(name, _)| !for_the_record(name))
                    .map(
                        |(name, value)| match difference.filter(|_| name == "reward") {
                            Some(Difference {
                                mean,
                                standard_error,
                            }) => {
                                format!("{name} {value:.4} ({mean:+.4} \u{b1} {standard_error:.4})")
                            }
                            None => format!("{name} {value:.4}"),
                        },
                    )
                    .collect();
                let mark = if *best { "  <- best" } else { "" };
                let waits = if *since > 0 && *patience > 0 {
                    format!("  (no gain: {since} of {patience})")
                } else {
                    String::new()
                };
                self.say(&format!("step {step}: {}{mark}{waits}", figures.join("  ")));
            }
            Event::Alarm { step, message, .. } => {
                if self.alarms.insert(without_numbers(message)) {
                    self.say(&format!("warning: step {step}: {message}"));
                }
            }
            Event::Finished { step, early, best } => {
                let how = if *early { "stopped early" } else { "finished" };
                let best = best.map_or_else(String::new, |(at, reward)| {
                    format!("; best reward {reward:.4} at step {at}")
                });
                self.say(&format!("{how} after {step} steps{best}"));
            }
        }
    }
}

/// `true` for figures that `metrics.jsonl` has and a line on the terminal has no room for.
fn for_the_record(name: &str) -> bool {
    name.starts_with("reward_")
        || [
            "cross_prompt_cosine",
            "div",
            "class_text_similarity",
            "pres",
            "class_drift",
        ]
        .contains(&name)
}

/// Says what to know of a file of records, unless that is to be quiet.
pub(crate) fn tell(notes: &Notes, quiet: bool) {
    for line in notes.lines().iter().filter(|_| !quiet) {
        eprintln!("{line}");
    }
}

/// Says what to know of a tokenizer before its numbers are believed.
pub(crate) fn warn(tokenizer: &TextTokenizer) {
    warn_of(tokenizer.warnings());
}

/// Says warnings.
pub(crate) fn warn_of(warnings: &[String]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}
