//! The processes of a run as the rest of the program sees them: alone, or a group of which each call needs all.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use super::Place;
use super::group::Group;
use crate::error::{Error, Result};

/// The processes that train one model together; by default this one alone.
#[derive(Clone, Default)]
pub struct Peers(Option<Rc<Group>>);

impl fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "process {} of {}", self.rank(), self.world())
    }
}

impl Peers {
    /// This process, and no other.
    pub const fn alone() -> Self {
        Self(None)
    }

    /// Joins the others; they are waited for at most `timeout`, now and in every later call.
    ///
    /// # Errors
    /// [`Error::Peers`] if not all of them come.
    pub fn join(place: Place, timeout: Duration) -> Result<Self> {
        Ok(Self(Some(Rc::new(Group::join(place, timeout)?))))
    }

    /// `true` if there is no other process.
    pub fn are_none(&self) -> bool {
        self.0.is_none()
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |group| group.place.rank)
    }

    /// `true` for the process that writes files and speaks to the user.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The number of processes.
    pub fn world(&self) -> usize {
        self.0.as_ref().map_or(1, |group| group.place.world)
    }

    /// The number of this process among those of its machine, which is the number of its GPU; `None` where it is alone.
    ///
    /// # Errors
    /// Whoever started the processes did not say.
    pub fn local_rank(&self) -> Result<Option<usize>> {
        let Some(group) = &self.0 else {
            return Ok(None);
        };
        let unknown = || {
            Error::config(
                "the variable `LOCAL_RANK` is not set: which GPU is this process to take?",
            )
            .with_hint(
                "set it to the number of the process among those of its machine, or name a device",
            )
        };
        group.place.local_rank.ok_or_else(unknown).map(Some)
    }

    /// Adds a tensor up over all processes, in its place.
    ///
    /// # Errors
    /// [`Error::Peers`] if another process has ended or does not answer, here and below.
    pub fn sum(&self, tensor: &Tensor) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |group| group.sum(tensor))
    }

    /// Adds the gradients of these tensors up over all processes. A tensor that has a gradient in one of them then has one in
    /// all.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn sum_gradients(&self, tensors: &[Tensor]) -> Result<()> {
        let group = self.0.as_ref();
        group.map_or(Ok(()), |group| group.sum_gradients(tensors))
    }

    /// Puts the first process' tensors in the place of these.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn broadcast(&self, tensors: &[Tensor]) -> Result<()> {
        let group = self.0.as_ref();
        group.map_or(Ok(()), |group| group.broadcast(tensors))
    }

    /// Sums of numbers over all processes.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn sums(&self, numbers: &[f64]) -> Result<Vec<f64>> {
        if self.are_none() || numbers.is_empty() {
            return Ok(numbers.to_vec());
        }
        let sums = Tensor::from_slice(numbers);
        self.sum(&sums)?;
        Ok(Vec::try_from(sums)?)
    }

    /// `true` if it is so in any of the processes.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn any(&self, here: bool) -> Result<bool> {
        if self.are_none() {
            return Ok(here);
        }
        Ok(self.sums(&[f64::from(u8::from(here))])?[0] > 0.0)
    }

    /// The values of all processes, in their order.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn gather<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<Vec<T>> {
        if self.are_none() {
            return Ok(vec![value]);
        }
        let own = serde_json::to_vec(&value).unwrap_or_default();
        let mut sizes = vec![0.0; self.world()];
        sizes[self.rank()] = own.len() as f64;
        let sizes: Vec<i64> = self.sums(&sizes)?.iter().map(|&size| size as i64).collect();
        let total: i64 = sizes.iter().sum();
        // Every place is written by one process; the others add zeros.
        let bytes = Tensor::zeros([total], (Kind::Uint8, Device::Cpu));
        let begin: i64 = sizes[..self.rank()].iter().sum();
        bytes
            .narrow(0, begin, own.len() as i64)
            .copy_(&Tensor::from_slice(&own));
        self.sum(&bytes)?;
        let bytes = Vec::<u8>::try_from(bytes)?;
        let mut rest = &bytes[..];
        let values = sizes.iter().map(|&size| {
            let (part, others) = rest.split_at(size as usize);
            rest = others;
            serde_json::from_slice(part).map_err(|error| {
                Error::Peers(format!("another process speaks otherwise: {error}"))
                    .with_hint("run the same version of the program in all processes")
            })
        });
        values.collect()
    }

    /// The first process' value; the others' are not looked at.
    ///
    /// # Errors
    /// As [`Self::sum`].
    pub fn first_says<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<T> {
        // Lists, for the value itself may be one that JSON writes as nothing.
        let own: Vec<T> = if self.is_first() {
            vec![value]
        } else {
            Vec::new()
        };
        let first = self.gather(own)?.into_iter().flatten().next();
        first.ok_or_else(|| Error::Peers("the first process says nothing".to_owned()))
    }

    /// Refuses processes that were not given the same: they would train on something that nobody configured.
    ///
    /// # Errors
    /// Names what differs, in all processes; or as [`Self::sum`].
    pub fn check_same(&self, facts: &[(String, String)]) -> Result<()> {
        if self.are_none() {
            return Ok(());
        }
        let all = self.gather(facts.to_vec())?;
        for (rank, other) in all.iter().enumerate() {
            let differs = all[0].iter().zip(other).find(|(one, two)| one != two);
            let name = match differs {
                Some(((name, _), _)) => name,
                None if all[0].len() != other.len() => "number of inputs",
                None => continue,
            };
            return Err(Error::config(format!(
                "process {rank} was given another {name} than process 0"
            ))
            .with_hint("start all processes with the same command, on the same files"));
        }
        Ok(())
    }

    /// The places that this process takes of `count` ones that are dealt out by turns, `together` at a time.
    pub fn deal(&self, count: usize, together: usize) -> Vec<usize> {
        let together = together.max(1);
        let own = |place: &usize| place / together % self.world() == self.rank();
        (0..count).filter(own).collect()
    }
}
