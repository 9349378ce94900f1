//! The place of a process among those that train together, as whoever started it has put it into the environment.

use std::env;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Who started the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`, `--procs`, or a script that sets the same variables.
    #[default]
    Environment,
    /// `srun` of Slurm.
    Slurm,
}

/// The place of this process among those that train together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub world: usize,
    /// Its number among those of its machine, where that is known.
    pub local_rank: Option<usize>,
    /// The machine where the processes meet.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// `true` if whoever started the processes serves the meeting; else the first process does.
    pub is_served: bool,
    /// Names this start among several on one meeting: what an earlier one has left there is not read.
    pub attempt: String,
}

/// Ports for runs under Slurm that set no `MASTER_PORT`: below those that systems give out by themselves.
const SLURM_PORTS: std::ops::Range<u16> = 15000..30000;

impl Place {
    /// The place that a launcher has given this process; `None` where it is alone.
    ///
    /// # Errors
    /// Some of the variables are missing, or are no numbers.
    pub fn find(launcher: Launcher) -> Result<Option<Self>> {
        Self::read(launcher, |name| env::var(name).ok())
    }

    /// As [`Self::find`] of other variables than the environment's.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn read(
        launcher: Launcher,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>> {
        let variables = Variables(&variable);
        let place = match launcher {
            Launcher::Environment => variables.of_torchrun()?,
            Launcher::Slurm => Some(variables.of_slurm()?),
        };
        if let Some(Self { rank, world, .. }) = &place
            && rank >= world
        {
            return Err(Error::config(format!(
                "this process has the number {rank} of {world}: numbers begin at 0"
            )));
        }
        Ok(place.filter(|place| place.world > 1))
    }
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let wrong = |_| Error::config(format!("the variable `{name}` is `{text}`, not a number"));
        text.parse().map(Some).map_err(wrong)
    }

    /// What every launcher of PyTorch's sets. Without number and count there is one process, whatever else is set.
    fn of_torchrun(&self) -> Result<Option<Place>> {
        const NAMES: [&str; 4] = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];
        let missing: Vec<&str> = NAMES
            .into_iter()
            .filter(|name| self.text(name).is_none())
            .collect();
        if missing.contains(&NAMES[0]) && missing.contains(&NAMES[1]) {
            return Ok(None);
        }
        let (rank, world) = (self.number(NAMES[0])?, self.number(NAMES[1])?);
        let (Some(rank), Some(world), Some(host), Some(port)) =
            (rank, world, self.text(NAMES[2]), self.number(NAMES[3])?)
        else {
            return Err(Error::config(format!(
                "of the variables `{}`, `{}` {} not set",
                NAMES.join("`, `"),
                missing.join("` and `"),
                if missing.len() == 1 { "is" } else { "are" }
            ))
            .with_hint(
                "a launcher sets all of them: `torchrun --no-python`, or `preftune train --procs N`; unset `RANK` and `WORLD_SIZE` \
                 to run in one process",
            ));
        };
        let restarts = self.text("TORCHELASTIC_RESTART_COUNT");
        Ok(Some(Place {
            rank,
            world,
            local_rank: self.number("LOCAL_RANK")?,
            host,
            port,
            is_served: self
                .text("TORCHELASTIC_USE_AGENT_STORE")
                .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            attempt: format!("preftune/{}", restarts.as_deref().unwrap_or("0")),
        }))
    }

    fn of_slurm(&self) -> Result<Place> {
        let needed = |name: &str| {
            Error::config(format!("the variable `{name}` is not set"))
                .with_hint("`--launcher slurm` is for processes that `srun` starts")
        };
        let number = |name: &str| self.number(name)?.ok_or_else(|| needed(name));
        let nodes = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];
        let nodes = nodes.into_iter().find_map(|name| self.text(name));
        let nodes = nodes.ok_or_else(|| needed("SLURM_STEP_NODELIST"))?;
        let job: u64 = self.number("SLURM_JOB_ID")?.unwrap_or_default();
        let step: u64 = self.number("SLURM_STEP_ID")?.unwrap_or_default();
        let count = u64::from(SLURM_PORTS.end - SLURM_PORTS.start);
        Ok(Place {
            rank: number("SLURM_PROCID")?,
            world: number("SLURM_NTASKS")?,
            local_rank: self.number("SLURM_LOCALID")?,
            host: first_host(&nodes),
            port: match self.number("MASTER_PORT")? {
                Some(port) => port,
                None => SLURM_PORTS.start + (job.wrapping_add(step) % count) as u16,
            },
            is_served: false,
            attempt: "preftune/0".to_owned(),
        })
    }
}

/// The first host of a list as Slurm writes it: `gpu[03-05,9],login` begins with `gpu03`.
fn first_host(list: &str) -> String {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (stem, rest) = list.split_at(end);
    let Some(numbers) = rest.strip_prefix('[') else {
        return stem.to_owned();
    };
    let end = numbers.find([',', '-', ']']).unwrap_or(numbers.len());
    let after = numbers.split_once(']').map_or("", |(_, after)| after);
    let after = &after[..after.find(',').unwrap_or(after.len())];
    format!("{stem}{}{after}", &numbers[..end])
}
