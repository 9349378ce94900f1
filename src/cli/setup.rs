//! `preftune setup`: libtorch for a program that was installed without it. Pip fetches PyTorch's package, which holds libtorch;
//! Python itself is never asked to import it.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use crate::error::{Error, Result};
use crate::installed::own_libtorch;

/// PyTorch's package, and for CPUs the two small packages of CUDA that its libraries are linked with.
const PACKAGE: &str = "torch==2.11.0";
const LINKED: [&str; 2] = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// The files of the packages that libtorch needs on a CPU; the rest is Python's and CUDA's.
const KEPT: [&str; 6] = [
    "torch/version.py",
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib",
    "torch-2.11.0.dist-info",
];

#[derive(Args)]
pub(super) struct SetupArgs {
    /// Fetch the libraries for NVIDIA GPUs too; the default where there is such a GPU.
    #[arg(long, conflicts_with = "cpu")]
    cuda: bool,
    /// Fetch the libraries for CPUs alone.
    #[arg(long)]
    cpu: bool,
    /// Do not ask before fetching.
    #[arg(long)]
    yes: bool,
    /// The Python whose pip fetches [default: that of the program's environment, else `python3`].
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
}

pub(super) fn run(args: &SetupArgs) -> Result<()> {
    let Some(folder) = own_libtorch() else {
        return Err(Error::config("neither `HOME` nor `XDG_DATA_HOME` is set")
            .with_hint("`XDG_DATA_HOME` names the folder for a user's data"));
    };
    let cuda = args.cuda || (!args.cpu && Path::new("/dev/nvidiactl").exists());
    let sizes = if cuda {
        "for NVIDIA GPUs: about 2.7 GB to fetch, 5 GB on disk"
    } else {
        "for CPUs: 533 MB to fetch, 460 MB on disk"
    };
    println!("libtorch 2.11.0 {sizes}, into {}", folder.display());
    if !args.yes && !agreed()? {
        println!("nothing was fetched");
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(|source| Error::io("create", &partial, source))?;
    fetch(&python(args), cuda, &partial)?;
    remove(&folder)?;
    if cuda {
        fs::rename(&partial, &folder).map_err(|source| Error::io("create", &folder, source))?;
    } else {
        for name in KEPT {
            let (from, to) = (partial.join(name), folder.join(name));
            let parent = to.parent().unwrap_or(&folder);
            fs::create_dir_all(parent).map_err(|source| Error::io("create", parent, source))?;
            fs::rename(&from, &to).map_err(|source| Error::io("move", &from, source))?;
        }
        remove(&partial)?;
    }
    println!("done: `preftune doctor` shows what the program finds");
    Ok(())
}

/// The user's answer on a terminal. Elsewhere nobody could give one.
fn agreed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::config("nobody is there to be asked")
            .with_hint("`preftune setup --yes` fetches without asking"));
    }
    eprint!("fetch it? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|source| Error::io("read", "standard input", source))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn python(args: &SetupArgs) -> PathBuf {
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|program| program.with_file_name("python3"));
    match (&args.python, beside.filter(|python| python.exists())) {
        (Some(given), _) => given.clone(),
        (None, Some(beside)) => beside,
        (None, None) => PathBuf::from("python3"),
    }
}

fn fetch(python: &Path, cuda: bool, folder: &Path) -> Result<()> {
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "install", "--disable-pip-version-check"])
        .arg("--target")
        .arg(folder)
        .arg(PACKAGE)
        // Results go to stdout; this is progress.
        .stdout(Stdio::from(std::io::stderr()))
        .stdin(Stdio::null());
    if !cuda {
        command.arg("--no-deps").args(LINKED);
    }
    let hint = "it needs Python 3 with pip; `--python` names another, and an existing libtorch is found by `LIBTORCH`";
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(Error::failed(python, format!("pip ended with {status}")).with_hint(hint))
        }
        Err(source) => Err(Error::io("run", python, source).with_hint(hint)),
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", folder, source))
        }
        _ => Ok(()),
    }
}
