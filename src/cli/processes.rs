//! `preftune train` by several processes: which of them this one is, or the start of all of them on this machine.

use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::json;

use crate::distributed::{Launcher, Meeting, Peers, Place};
use crate::error::{Error, INTERRUPTED, PEERS_LOST, Result, TRY_AGAIN};
use crate::jobs::interrupt::Interrupt;

/// How long the others may take to end by themselves once one has failed.
const GRACE: Duration = Duration::from_secs(10);

/// How often the processes are looked at.
const POLL: Duration = Duration::from_millis(20);

/// By how many seconds the report of a lost process is dated later than it is: launchers take the earliest one for the cause.
const LATER: u64 = 5;

/// How many threads a process of libtorch takes.
const THREADS: &str = "OMP_NUM_THREADS";

#[derive(Args)]
#[command(next_help_heading = "Several processes")]
pub(super) struct ProcessArgs {
    /// Train by N processes on this machine: each takes its share of every step, and its own GPU where there are some. The steps
    /// are those of one process.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    procs: Option<u16>,
    /// Who has started the processes, where it was not `--procs`: `env` for `torchrun --no-python` and all that set RANK,
    /// WORLD_SIZE, MASTER_ADDR, MASTER_PORT and LOCAL_RANK, `slurm` for `srun`.
    #[arg(long, value_enum, default_value = "env")]
    launcher: LauncherName,
    /// Seconds that a process waits for another one before it ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    peer_timeout: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum LauncherName {
    Env,
    Slurm,
}

impl From<LauncherName> for Launcher {
    fn from(name: LauncherName) -> Self {
        match name {
            LauncherName::Env => Self::Environment,
            LauncherName::Slurm => Self::Slurm,
        }
    }
}

impl ProcessArgs {
    /// The place of this process among several.
    ///
    /// # Errors
    /// As [`Place::find`]; a launcher has started another number of them than `--procs` asks for.
    fn place(&self) -> Result<Option<Place>> {
        let place = Place::find(self.launcher.into())?;
        match (&place, self.procs) {
            (Some(place), Some(procs)) if place.world != usize::from(procs) => {
                Err(Error::config(format!(
                    "`--procs {procs}`, and a launcher has started {} processes",
                    place.world
                ))
                .with_hint("leave `--procs` out: it starts processes itself"))
            }
            _ => Ok(place),
        }
    }

    /// How many processes this one is to start; `None` where it trains itself.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub(super) fn to_start(&self) -> Result<Option<usize>> {
        let alone = self.place()?.is_none();
        let procs = self.procs.map(usize::from);
        Ok(procs.filter(|procs| alone && *procs > 1))
    }

    /// `true` if several processes are asked for or started.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub(super) fn are_several(&self) -> Result<bool> {
        Ok(self.place()?.is_some() || self.to_start()?.is_some())
    }

    /// Joins the other processes, where there are some.
    ///
    /// # Errors
    /// As [`Self::place`], or they do not come.
    pub(super) fn join(&self) -> Result<Peers> {
        let Some(place) = self.place()? else {
            return Ok(Peers::alone());
        };
        if self.procs.is_some() {
            // A run whose starter was killed is to end too, as if it had been told.
            let _ = set_parent_process_death_signal(Some(Signal::TERM));
        }
        Peers::join(place, Duration::from_secs(self.peer_timeout))
    }
}

/// Refuses a verb that several processes were started for and that one alone works on.
///
/// # Errors
/// There are several.
pub(super) fn require_one(verb: &str) -> Result<()> {
    match Place::find(Launcher::Environment)? {
        None => Ok(()),
        Some(Place { world, .. }) => Err(Error::config(format!(
            "`{verb}` works in one process, and a launcher has started {world}"
        ))
        .with_hint(
            "start it by itself; of the verbs that train, `train` is the one for several processes",
        )),
    }
}

/// Leaves an error where `torchrun` looks for it.
pub(super) fn tell_launcher(error: &Error) {
    let Some(path) = std::env::var_os("TORCHELASTIC_ERROR_FILE") else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let late = if error.exit_code() == PEERS_LOST {
        LATER
    } else {
        0
    };
    let text = error.describe();
    let extra = json!({"py_callstack": text, "timestamp": (now + late).to_string()});
    let report = json!({"message": {"message": text, "extraInfo": extra}});
    // The error itself is more important than that nobody could be told.
    let _ = crate::files::write_atomically(path.as_ref(), report.to_string().as_bytes());
}

/// A process of the run.
struct Started {
    child: Child,
    /// What it says on stderr; the first one's goes where this process' goes.
    said: Option<JoinHandle<String>>,
    ended: Option<ExitStatus>,
    /// `true` if it had not ended long after another one had failed.
    hung: bool,
}

impl Started {
    fn failed(&self) -> bool {
        self.ended.is_some_and(|status| !status.success())
    }

    fn code(&self) -> Option<i32> {
        self.ended.and_then(|status| status.code())
    }

    fn was_interrupted(&self) -> bool {
        [INTERRUPTED, TRY_AGAIN]
            .map(|code| Some(code.into()))
            .contains(&self.code())
    }

    /// `true` if it failed by itself: not because another one was lost, or because it was told to end.
    fn is_culprit(&self) -> bool {
        let caused = self.code() == Some(PEERS_LOST.into()) || self.was_interrupted();
        self.failed() && !self.hung && !caused
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts the command of this process `count` times, shows what the first one shows, and waits for all. Signals are passed on.
///
/// # Errors
/// A process cannot be started, or one has failed: with its exit code and its words.
pub(super) fn start(count: usize) -> Result<()> {
    let meeting = Meeting::serve()?;
    // The first process says that it stops.
    let interrupt = Interrupt::install(|| {})?;
    let mut all: Vec<Started> = Vec::new();
    for rank in 0..count {
        all.push(start_one(rank, count, meeting.port)?);
    }
    wait(&mut all, &interrupt)?;
    report(all)
}

/// This program as one of `count` processes that work side by side.
///
/// # Errors
/// The system does not say where it is.
pub(super) fn own_command(count: usize) -> Result<Command> {
    let program =
        std::env::current_exe().map_err(|source| Error::io("find", "this program", source))?;
    let mut command = Command::new(program);
    command
        .arg0("preftune")
        .stdin(Stdio::null())
        // A key that ends this process would reach the others too, which then took its signal for the second one.
        .process_group(0);
    if std::env::var_os(THREADS).is_none() {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        command.env(THREADS, (cores / count).max(1).to_string());
    }
    Ok(command)
}

/// Starts a process, and collects what it says where its stderr is piped.
///
/// # Errors
/// It cannot be started.
pub(super) fn spawn(command: &mut Command) -> Result<(Child, Option<JoinHandle<String>>)> {
    let mut child = command
        .spawn()
        .map_err(|source| Error::io("run", command.get_program(), source))?;
    let said = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    Ok((child, said))
}

fn start_one(rank: usize, count: usize, port: u16) -> Result<Started> {
    let mut command = own_command(count)?;
    command
        .args(std::env::args_os().skip(1))
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", count.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("TORCHELASTIC_USE_AGENT_STORE", "True")
        // Gloo listens where the machine's name leads, which may be nowhere.
        .env("GLOO_SOCKET_IFNAME", "lo");
    if rank > 0 {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
    }
    let (child, said) = spawn(&mut command)?;
    Ok(Started {
        child,
        said,
        ended: None,
        hung: false,
    })
}

/// Waits until all have ended; those that have not long after the first failure are ended.
fn wait(all: &mut [Started], interrupt: &Interrupt) -> Result<()> {
    let mut told = false;
    let mut failed: Option<Instant> = None;
    while all.iter().any(|one| one.ended.is_none()) {
        if interrupt.requested() && !told {
            told = true;
            for one in all.iter().filter(|one| one.ended.is_none()) {
                let _ = kill_process(Pid::from_child(&one.child), Signal::TERM);
            }
        }
        for one in all.iter_mut().filter(|one| one.ended.is_none()) {
            one.ended = one
                .child
                .try_wait()
                .map_err(|source| Error::io("wait for", "a process", source))?;
            // The first process may still be writing what the others have ended after.
            if one.failed() && !one.was_interrupted() {
                failed.get_or_insert_with(Instant::now);
            }
        }
        if failed.is_some_and(|since| since.elapsed() > GRACE) {
            for one in all.iter_mut().filter(|one| one.ended.is_none()) {
                one.hung = true;
                let _ = one.child.kill();
            }
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Success, or which process failed and why.
fn report(mut all: Vec<Started>) -> Result<()> {
    let count = all.len();
    let find = |condition: fn(&Started) -> bool| all.iter().position(condition);
    let culprit = find(Started::is_culprit)
        .or_else(|| find(|one| one.hung))
        .or_else(|| find(Started::was_interrupted))
        .or_else(|| find(Started::failed));
    let Some(rank) = culprit else { return Ok(()) };
    let one = &mut all[rank];
    let said = one.said.take().and_then(|said| said.join().ok());
    let signal = one.ended.and_then(|status| status.signal());
    let code = one.code().and_then(|code| u8::try_from(code).ok());
    let name = format!("process {rank} of {count}");
    let what = match (one.hung, code, signal) {
        (true, ..) => format!("{name} did not answer the others and was ended"),
        (_, Some(INTERRUPTED | TRY_AGAIN), _) => {
            format!("{name} was interrupted, and the others with it")
        }
        (_, Some(code), _) => match said.filter(|said| !said.trim().is_empty()) {
            Some(said) => format!("{name} failed: {}", last_error(&said)),
            None => format!("{name} failed with exit code {code}: it says above why"),
        },
        (_, None, Some(signal)) => format!("{name} was ended by signal {signal}"),
        (_, None, None) => format!("{name} ended without saying why"),
    };
    let killed = one.hung || signal.is_some();
    let error = Error::Process {
        code: code.filter(|_| !killed).unwrap_or(1),
        what,
    };
    Err(if killed {
        error.with_hint("the same command with `--resume` goes on from the last checkpoint")
    } else {
        error
    })
}

/// The error at the end of what a process said, with its hint.
pub(super) fn last_error(said: &str) -> &str {
    const MARK: &str = "error: ";
    let begin = said.rfind(MARK).map_or(0, |at| at + MARK.len());
    said[begin..].trim_end()
}
