//! `preftune doctor`: the program, libtorch, devices and room on this machine. What is wrong ends it with exit code 1.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::Args;
use serde::Serialize;

use super::output::print_json;
use crate::error::{Error, Result};
use crate::hub;
use crate::installed::{LIBTORCH_CHOSEN, LIBTORCH_VERSION, libtorch_candidates, share, version};
use crate::models::device;

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Names of a finding that are shown.
const MOST_NAMES: usize = 10;

/// A fact about this machine.
#[derive(Serialize)]
struct Finding {
    name: &'static str,
    found: String,
    /// What was found, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    /// The fault, and the way to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl Finding {
    fn new(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            found: found.into(),
            names: Vec::new(),
            fault: None,
        }
    }

    fn wrong(name: &'static str, found: impl Into<String>, fault: impl Into<String>) -> Self {
        Self {
            fault: Some(fault.into()),
            ..Self::new(name, found)
        }
    }
}

/// Model families and files that are read.
const READ: [(&str, &str); 4] = [
    ("diffusion models", "Stable Diffusion 1.x, 2.x and XL"),
    (
        "language models",
        "Llama, SmolLM2, Mistral, Qwen2, Qwen3, GPT-2",
    ),
    (
        "encoders",
        "of images and texts: CLIP, OpenCLIP, SigLIP, SigLIP 2 (of one image size), ALIGN; of images: DINO, DINOv2, DINOv3 (ViT)",
    ),
    (
        "files",
        "safetensors, PyTorch's own (.bin, .pt, .pth, .ckpt), GGUF; Stable Diffusion and OpenCLIP in one file; LoRA of PEFT, diffusers \
         and kohya; JSON lines, JSON, CSV, Parquet; JPEG, PNG, WebP, BMP",
    ),
];

/// The report of the program that has libtorch loaded.
pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let mut findings = program();
    findings.extend([libtorch(), cpu(), gpu()]);
    show(args, findings)
}

/// The report where there is no libtorch.
pub(super) fn run_without_libtorch(args: &DoctorArgs) -> Result<()> {
    let mut findings = program();
    let looked = libtorch_candidates();
    let places = looked.iter().map(|one| {
        let fault = one.fault.as_deref().unwrap_or_default();
        format!("{} ({fault})", one.lib.display())
    });
    findings.push(Finding::wrong(
        "libtorch",
        format!("none in {}", places.collect::<Vec<_>>().join(", ")),
        "`preftune setup` fetches it; or install PyTorch 2.11 into the same Python environment, or set `LIBTORCH`",
    ));
    show(args, findings)
}

fn show(args: &DoctorArgs, mut findings: Vec<Finding>) -> Result<()> {
    findings.extend([memory(), disk(), models()]);
    findings.extend(READ.map(|(name, read)| Finding::new(name, read)));
    if args.json {
        print_json(&findings);
    } else {
        for finding in &findings {
            print(finding);
        }
    }
    let faults = findings.iter().filter(|one| one.fault.is_some());
    let names: Vec<&str> = faults.map(|one| one.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::RunsFailed(format!(
        "not in order: {}",
        names.join(", ")
    )))
}

fn print(finding: &Finding) {
    let Finding {
        name,
        found,
        names,
        fault,
    } = finding;
    println!("{name:<18} {found}");
    for one in names.iter().take(MOST_NAMES) {
        println!("{:<20} {one}", "");
    }
    if names.len() > MOST_NAMES {
        let rest = names.len() - MOST_NAMES;
        println!("{:<20} and {rest} more; `--json` has them all", "");
    }
    for fault in fault.iter().flat_map(|fault| fault.lines()) {
        println!("{:<18} wrong: {fault}", "");
    }
}

fn program() -> Vec<Finding> {
    let place = std::env::current_exe().map_or_else(
        |error| error.to_string(),
        |program| program.display().to_string(),
    );
    let companions = match share() {
        Some(folder) => Finding::new("its files", folder.display().to_string()),
        None => Finding::wrong(
            "its files",
            "no `share/preftune` beside the program",
            "configurations and the small world are missing: install the whole package or archive",
        ),
    };
    vec![
        Finding::new(
            "preftune",
            format!("{} at {place}", env!("CARGO_PKG_VERSION")),
        ),
        companions,
    ]
}

fn libtorch() -> Finding {
    // The library that is really loaded, whatever the launcher chose.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = maps.lines().find_map(|line| {
        let path = line.split_once('/').map(|(_, path)| format!("/{path}"))?;
        path.ends_with("/libtorch_cpu.so").then_some(path)
    });
    let Some(loaded) = loaded else {
        return Finding::new(
            "libtorch",
            "loaded; where from cannot be told on this system",
        );
    };
    let lib = Path::new(&loaded).parent().unwrap_or(Path::new(""));
    let found = match version(lib) {
        Some(version) => format!("{version} in {}", lib.display()),
        None => format!("of an unknown version in {}", lib.display()),
    };
    let chosen = std::env::var_os(LIBTORCH_CHOSEN);
    match chosen {
        Some(chosen) if Path::new(&chosen) != lib => Finding::wrong(
            "libtorch",
            found,
            format!(
                "another one was chosen: {}. Is `LD_PRELOAD` set?",
                Path::new(&chosen).display()
            ),
        ),
        _ if version(lib).is_some_and(|version| !version.starts_with(LIBTORCH_VERSION)) => {
            let fault = format!("the program is built for {LIBTORCH_VERSION}");
            Finding::wrong("libtorch", found, fault)
        }
        _ => Finding::new("libtorch", found),
    }
}

fn cpu() -> Finding {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    let threads = tch::get_num_threads();
    let model = model.map_or("of an unknown model", |(_, model)| model.trim());
    Finding::new("CPU", format!("{model}, {threads} threads for libtorch"))
}

fn gpu() -> Finding {
    if !device::gpu_driver_present() {
        return Finding::new("GPU", "no NVIDIA driver found; runs use the CPU");
    }
    let names = Command::new("nvidia-smi")
        .args([
            "--query-gpu=name,memory.total,driver_version",
            "--format=csv,noheader",
        ])
        .output();
    let names = names.map_or_else(
        |_| String::new(),
        |output| {
            String::from_utf8_lossy(&output.stdout)
                .trim()
                .replace('\n', "; ")
        },
    );
    match device::gpus() {
        Ok(count) => Finding::new("GPU", format!("{count} that libtorch can use: {names}")),
        Err(fault) => Finding::wrong(
            "GPU",
            format!("a driver is there: {names}"),
            format!("{fault}. `preftune setup --cuda` fetches the libraries for GPUs"),
        ),
    }
}

fn memory() -> Finding {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gigabytes = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes * 1024.0 / 1e9)
    };
    match (gigabytes("MemTotal"), gigabytes("MemAvailable")) {
        (Some(total), Some(free)) => {
            Finding::new("memory", format!("{free:.1} of {total:.1} GB free"))
        }
        _ => Finding::new("memory", "cannot be told on this system"),
    }
}

/// The models that can be named as they are on the hub.
fn models() -> Finding {
    const NAME: &str = "models of the hub";
    let mut roots = hub::roots();
    roots.dedup();
    if roots.is_empty() {
        return Finding::new(NAME, "no folder for its cache is known");
    }
    let (mut counts, mut names, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for root in roots {
        let place = root.display();
        if root.is_file() {
            counts.push(format!("none in {place}"));
            faults.push(format!(
                "{place} is a file: `HF_HUB_CACHE` or `HF_HOME` must name a folder"
            ));
            continue;
        }
        let survey = hub::survey(&root);
        counts.push(format!("{} in {place}", survey.whole.len()));
        names.extend(survey.whole);
        let unfinished = survey.without_snapshot.into_iter();
        names.extend(unfinished.map(|name| format!("{name} (not downloaded to its end)")));
        faults.extend(survey.broken.into_iter().map(|(name, link)| {
            let link = link.file_name().unwrap_or_default().to_string_lossy();
            format!(
                "`{name}` lacks files (`{link}` leads to none): `preftune fetch {name}` mends it"
            )
        }));
    }
    let fault = (!faults.is_empty()).then(|| faults.join("\n"));
    Finding {
        name: NAME,
        found: counts.join(", "),
        names,
        fault,
    }
}

fn disk() -> Finding {
    match rustix::fs::statvfs(".") {
        Ok(room) => {
            let free = (room.f_bavail * room.f_frsize) as f64 / 1e9;
            Finding::new("disk", format!("{free:.1} GB free in this folder"))
        }
        Err(error) => Finding::wrong("disk", "this folder cannot be read", error.to_string()),
    }
}
