//! `preftune fetch`: models from the Hugging Face hub into its cache, the one verb that opens a connection to it.

use std::io::IsTerminal as _;

use clap::Args;
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use crate::data::left_out::counted;
use crate::error::{Result, printable};
use crate::hub::Name;
use crate::hub::fetch::{Access, Plan, Selection};

#[derive(Args)]
pub(super) struct FetchArgs {
    /// Models on the hub: `org/name`, or `org/name@revision` of a branch, a tag or a commit.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Weights of this variant, for example `fp16`; the plain ones where it is not given.
    #[arg(long, conflicts_with = "files")]
    variant: Option<String>,
    /// A file by its name, instead of what a model needs: a GGUF file, a LoRA, a model in one file; may be repeated.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<String>,
    /// No progress; the folders alone.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &FetchArgs) -> Result<()> {
    let names = args.names.iter().map(|name| Name::parse(name));
    let names: Vec<Name> = names.collect::<Result<_>>()?;
    let access = Access::from_env()?;
    let selection = Selection {
        variant: args.variant.clone(),
        files: args.files.clone(),
    };
    // A name that is wrong says so before hours of the others.
    let plans = names.iter().map(|name| access.plan(name, &selection));
    let plans: Vec<Plan> = plans.collect::<Result<_>>()?;
    for plan in &plans {
        let folder = if args.quiet {
            plan.run(&mut |_, _, _| ())?
        } else {
            tell(plan);
            let mut bar = Bar::default();
            let folder = plan.run(&mut |file, here, size| bar.advance(file, here, size));
            bar.close();
            folder?
        };
        println!("{}", folder.display());
    }
    Ok(())
}

/// How much there is to fetch, and what of it is there.
fn tell(plan: &Plan) {
    let (missing, here) = (plan.missing(), plan.here());
    let commit: String = plan.commit().chars().take(12).collect();
    let files = |count: usize| counted(count, "file");
    let there = match (here.files, here.bytes) {
        (_, 0) => String::new(),
        (0, bytes) => format!("; {} of it are there already", DecimalBytes(bytes)),
        (count, bytes) => format!(
            "; {} ({}) are there already",
            files(count),
            DecimalBytes(bytes)
        ),
    };
    if missing.files == 0 {
        eprintln!(
            "`{}` (commit {commit}) is there: {}, {}",
            plan.name(),
            files(here.files),
            DecimalBytes(here.bytes)
        );
        return;
    }
    eprintln!(
        "`{}` (commit {commit}): {}, {} to fetch into {}{there}",
        plan.name(),
        files(missing.files),
        DecimalBytes(missing.bytes),
        plan.folder().display()
    );
}

/// A bar on a terminal, a line for each file elsewhere.
#[derive(Default)]
struct Bar {
    bar: Option<(String, ProgressBar)>,
}

impl Bar {
    fn advance(&mut self, file: &str, here: u64, size: u64) {
        if self.bar.as_ref().is_none_or(|(known, _)| known != file) {
            self.close();
            if !std::io::stderr().is_terminal() {
                eprintln!("{file}, {}", DecimalBytes(size));
            }
            let style = ProgressStyle::with_template(
                "{msg} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} [{eta}]",
            );
            let bar = ProgressBar::new(size)
                .with_position(here)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(printable(file).into_owned());
            bar.reset_eta();
            self.bar = Some((file.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(here);
        }
    }

    fn close(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
