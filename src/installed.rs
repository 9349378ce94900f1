//! Where the program's companions lie: libtorch, and the files that come with the program (configurations, the small world).
//! The launcher looks before libtorch is loaded, so nothing here needs it.

use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The version of libtorch that the program is built for; others in the same line fit.
pub const LIBTORCH_VERSION: &str = "2.11";

/// Names the folder of libtorch to the program that the launcher starts.
pub const LIBTORCH_CHOSEN: &str = "PREFTUNE_LIBTORCH";
/// Where the system's loader looks first. The launcher puts libtorch's folder there.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
/// Its value before that, for the commands that the program runs.
pub const LIBRARY_PATH_BEFORE: &str = "PREFTUNE_LIBRARY_PATH_BEFORE";

const LIBRARY: &str = "libtorch_cpu.so";

/// A folder that may hold libtorch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The folder of `libtorch_cpu.so`.
    pub lib: PathBuf,
    /// Why it was looked at, in words.
    pub origin: &'static str,
    /// Why it is not taken; `None` if it is.
    pub fault: Option<String>,
}

/// All places where libtorch is looked for, in their order. The first without a fault is taken.
pub fn libtorch_candidates() -> Vec<Candidate> {
    let mut places: Vec<(PathBuf, &'static str)> = Vec::new();
    if let Some(folder) = env::var_os("LIBTORCH").filter(|folder| !folder.is_empty()) {
        places.push((PathBuf::from(folder).join("lib"), "`LIBTORCH`"));
    }
    let beside = program_folder();
    if let Some(beside) = &beside {
        places.push((beside.join("lib"), "beside the program"));
        places.push((beside.join("../lib"), "beside the program"));
        for packages in site_packages(&beside.join("../lib")) {
            places.push((
                packages.join("torch/lib"),
                "the program's Python environment",
            ));
        }
    }
    if let Some(environment) = env::var_os("VIRTUAL_ENV") {
        for packages in site_packages(&Path::new(&environment).join("lib")) {
            places.push((packages.join("torch/lib"), "`VIRTUAL_ENV`"));
        }
    }
    if let Some(folder) = own_libtorch() {
        places.push((folder.join("torch/lib"), "`preftune setup`"));
    }
    // The repository that the program was built in.
    for folder in beside
        .iter()
        .flat_map(|beside| beside.ancestors().skip(2).take(2))
    {
        places.push((folder.join(".libtorch/torch/lib"), "the repository"));
    }
    let mut candidates: Vec<Candidate> = Vec::new();
    for (lib, origin) in places {
        let lib = lib.canonicalize().unwrap_or(lib);
        if candidates.iter().all(|known| known.lib != lib) {
            let fault = fault(&lib);
            candidates.push(Candidate { lib, origin, fault });
        }
    }
    candidates
}

/// The folder that `preftune setup` fills: one for all environments of a user.
pub fn own_libtorch() -> Option<PathBuf> {
    let data = match env::var_os("XDG_DATA_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME")?).join(".local/share"),
    };
    Some(data.join("preftune").join("libtorch"))
}

/// The folder of configurations and of the small world: `share/preftune` beside an installed program, else the repository.
pub fn share() -> Option<PathBuf> {
    let beside = program_folder()?;
    let places = [
        beside.join("../share/preftune"),
        beside.join("share/preftune"),
    ];
    let repository = beside.ancestors().skip(1).take(3).map(Path::to_owned);
    places
        .into_iter()
        .chain(repository)
        .find(|folder| folder.join("assets/emoji-world/model_index.json").is_file())
        .map(|folder| folder.canonicalize().unwrap_or(folder))
}

/// A path that the user names: as it is where there is something, else the file of that name that comes with the program, as
/// `configs/text/dpo.toml` and `assets/sprites`.
pub fn find(path: PathBuf) -> PathBuf {
    if path.is_absolute() || path.exists() {
        return path;
    }
    match share().map(|share| share.join(&path)) {
        Some(companion) if companion.exists() => companion,
        _ => path,
    }
}

/// The places that were looked at, and the ways to get libtorch, where none was found.
pub fn without_libtorch(candidates: &[Candidate]) -> String {
    let mut text = format!("error: libtorch {LIBTORCH_VERSION} is not there\n");
    for Candidate { lib, origin, fault } in candidates {
        let fault = fault.as_deref().unwrap_or("not looked at");
        let _ = writeln!(text, "  {} ({origin}): {fault}", lib.display());
    }
    text.push_str(
        "hint: `preftune setup` fetches it with pip and says first how much that is; or install PyTorch 2.11 into the same Python \
         environment; or set `LIBTORCH` to a folder of libtorch\n",
    );
    text
}

fn program_folder() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    Some(program.parent()?.to_owned())
}

/// The `site-packages` of a Python environment's `lib`.
fn site_packages(lib: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lib).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let is_python = name.to_str()?.starts_with("python3");
            is_python.then(|| entry.path().join("site-packages"))
        })
        .collect();
    found.sort();
    found
}

fn fault(lib: &Path) -> Option<String> {
    if !lib.join(LIBRARY).is_file() {
        return Some(format!("no `{LIBRARY}` in it"));
    }
    let version = version(lib)?;
    let fits = version == LIBTORCH_VERSION || version.starts_with(&format!("{LIBTORCH_VERSION}."));
    (!fits).then(|| format!("version {version}, which the program is not built for"))
}

/// The version of the libtorch in a folder, where it can be told: of PyTorch's package, or of libtorch's archive.
pub fn version(lib: &Path) -> Option<String> {
    let folder = lib.parent()?;
    if let Ok(text) = std::fs::read_to_string(folder.join("version.py")) {
        let line = text.lines().find(|line| line.starts_with("__version__"))?;
        return Some(line.split(['\'', '"']).nth(1)?.to_owned());
    }
    let text = std::fs::read_to_string(folder.join("build-version")).ok()?;
    Some(text.trim().to_owned())
}
