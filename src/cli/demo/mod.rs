//! `sriov-dra demo`: the whole story on any Linux machine, without cluster and without hardware.

mod addresses;
mod pods;
mod show;
mod story;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::documents::Documents;
use super::explain::{Format, Given, Origin, answer, template_spec};
use crate::DEFAULT_DRIVER_NAME;
use crate::app::Supply;
use crate::demo::gpus;
use crate::demo::stage::{NODE, Part, Stage};
use crate::demo::world::{Shape, World, enter_private_namespaces};
use crate::observe::{self, LogFormat};
use show::{Printer, Tale};

/// Of the stand-in for the runtime: the machine may be a slow one.
const PATIENCE: Duration = Duration::from_secs(10);

/// This program: the agent and the pods of the demonstration are further processes of it.
const SELF: &str = "/proc/self/exe";

/// An example with the rails that it takes.
struct Example {
    name: &'static str,
    text: &'static str,
    rails: u8,
}

macro_rules! example {
    ($file:literal, $rails:literal) => {
        Example {
            name: concat!("examples/", $file),
            text: include_str!(concat!("../../../examples/", $file)),
            rails: $rails,
        }
    };
}

/// The claims that come with the project, without those that replace others' configurations (`examples/seeds`): they name
/// the ports of certain machines.
const EXAMPLES: [Example; 16] = [
    example!("one-vf.yaml", 1),
    example!("two-vfs-distinct-pfs.yaml", 2),
    example!("by-pf.yaml", 1),
    example!("by-numa.yaml", 1),
    example!("by-link-type.yaml", 1),
    example!("static-address.yaml", 1),
    example!("vlan.yaml", 1),
    example!("vfio.yaml", 1),
    example!("rdma.yaml", 2),
    example!("slinky-nodeset.yaml", 1),
    example!("rails/1-rail.yaml", 1),
    example!("rails/8-rails.yaml", 8),
    example!("rails/8-rails-1.36.yaml", 8),
    example!("rails/8-rails-gpus.yaml", 8),
    example!("rails/16-rails.yaml", 16),
    example!("rails/16-rails-1.36.yaml", 16),
];

/// What `kubectl apply -k manifests` brings besides the agent.
const DEVICE_CLASS: &str = include_str!("../../../manifests/deviceclass.yaml");

/// Arguments of `sriov-dra demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// A file with claims, templates and pods to run instead of the examples; may be given several times
    #[arg(short = 'f', long = "claim", value_name = "FILE")]
    pub claims: Vec<PathBuf>,
    /// Use this machine's own VFs (root; nothing else may use them meanwhile) instead of a simulated node
    #[arg(long)]
    pub real: bool,
    /// Rails of the simulated node: 1 to 16. Without files, those examples are run that need no more
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub rails: u8,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Leave the folder with ledger, CDI files, kubeconfig and the agent's log
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demonstration. Status 0: every pod got its VFs and gave them back; 1: one did not; 2: the input is wrong.
///
/// # Errors
/// When the machine lacks what the demonstration itself needs.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let DemoArgs { claims, real, rails, output, keep } = args;
    observe::start(LogFormat::Text, "warn")?;
    let files = match read(claims, *real, *rails) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("sriov-dra: {error:#}");
            return Ok(ExitCode::from(super::BAD_INPUT));
        }
    };
    match *real {
        true if !nix::unistd::geteuid().is_root() => bail!(
            "demo --real moves this machine's own VFs between network namespaces, which takes root: use sudo, or leave \
             --real out for a simulated node, which takes none"
        ),
        true => {}
        // Before any thread is started.
        false => enter_private_namespaces()?,
    }
    let shape = (!*real).then(|| Shape::cards(*rails));
    let folder = Folder::make(*keep)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the async runtime can't be started")?;
    let mut printer = Printer::new(*output == Format::Text);
    let told = runtime.block_on(async {
        let stopped = interrupted().context("signals can't be handled")?;
        tokio::select! {
            told = tell(&files, shape.as_ref(), &folder.path, &mut printer) => told,
            // Dropped on the way out: agent, pods, node and folder go with it.
            error = stopped => Err(error),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    let tale = told?;
    if *output == Format::Json {
        printer.clear();
        let mut out = std::io::stdout();
        writeln!(out, "{}", serde_json::to_string_pretty(&tale)?)?;
    }
    if *keep {
        printer.note(&format!("kept: {}", folder.path.display()));
    }
    Ok(if tale.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// SIGINT, SIGTERM or SIGHUP, heard from this call on.
///
/// # Errors
/// When they can't be handled.
fn interrupted() -> anyhow::Result<impl Future<Output = anyhow::Error>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        anyhow::anyhow!("interrupted; everything was stopped and removed")
    })
}

/// The files to run, each by its name.
fn read(claims: &[PathBuf], real: bool, rails: u8) -> anyhow::Result<Vec<(String, Documents)>> {
    let mut files = Vec::new();
    if claims.is_empty() {
        // The other examples name ports of a machine that is not this one.
        let shown = EXAMPLES.iter().take(if real { 1 } else { EXAMPLES.len() });
        for Example { name, text, .. } in shown.filter(|example| example.rails <= rails) {
            let mut documents = Documents::default();
            documents.parse(name, text, DEFAULT_DRIVER_NAME)?;
            files.push(((*name).to_owned(), documents));
        }
    }
    for path in claims {
        let mut documents = Documents::default();
        documents.read(path, DEFAULT_DRIVER_NAME)?;
        files.push((path.display().to_string(), documents));
    }
    let faults: Vec<String> = files
        .iter()
        .filter(|(_, documents)| !documents.faults.is_empty())
        .map(|(_, documents)| documents.sentences())
        .collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    for (_, documents) in &files {
        // Asked without devices: whatever is an error now is the input's.
        let given = Given {
            asked: documents.clone(),
            supply: Supply::default(),
            from: Origin::Machine,
            node: Some(NODE.to_owned()),
        };
        answer(&given, DEFAULT_DRIVER_NAME)?;
    }
    Ok(files)
}

/// `shape`: of the simulated node; `None` takes this machine.
async fn tell(
    files: &[(String, Documents)],
    shape: Option<&Shape>,
    folder: &Path,
    printer: &mut Printer,
) -> anyhow::Result<Tale> {
    let mut tale = Tale { format_version: 1, ok: true, ..Tale::default() };
    let world = match shape {
        None => None,
        Some(shape) => {
            let built = World::build_as(shape, Path::new(SELF), folder, &mut |rail| {
                printer.progress(&format!("building a node: rail {rail} of {}", shape.pfs.len()));
            });
            Some(built.context("the simulated node can't be built")?)
        }
    };
    let sysfs = world.as_ref().map_or(Path::new("/sys"), World::sysfs);
    tale.node = story::inventory(sysfs, printer)?;
    printer.progress("starting the API server and the agent");
    let part =
        Part { rails: world.as_ref().map_or("", World::rails), request_timeout: PATIENCE, ..Part::default() };
    let stage = Stage::start_part(part, Path::new(SELF), folder, sysfs).await?;
    let class: DeviceClass = serde_saphyr::from_str(DEVICE_CLASS).context("manifests/deviceclass.yaml")?;
    stage.server.store().create(&class);
    tale.agent = story::agent(&stage, printer);
    for (name, documents) in files {
        // The others are told what they are told on a node without GPUs.
        let gpus = shape.filter(|_| asks_for_gpus(documents)).map(gpus::slice);
        if let Some(slice) = &gpus {
            stage.server.store().create(&gpus::class());
            stage.server.store().create(slice);
        }
        let run = story::file(&stage, sysfs, name, documents, printer).await?;
        tale.ok &= run.ok;
        tale.runs.push(run);
        if let Some(name) = gpus.and_then(|slice| slice.metadata.name) {
            stage.server.store().delete::<ResourceSlice>("", &name);
        }
    }
    tale.end = story::end(stage, folder, &tale.runs, printer).await?;
    tale.ok &= tale.end.left.is_empty();
    Ok(tale)
}

/// A claim of the file has a request for GPUs.
fn asks_for_gpus(documents: &Documents) -> bool {
    let of_claims = documents.claims.iter().filter_map(|claim| claim.spec.clone());
    let specs = of_claims.chain(documents.templates.iter().map(template_spec));
    let requests = specs.filter_map(|spec| spec.devices?.requests).flatten();
    requests.filter_map(|request| request.exactly).any(|exactly| exactly.device_class_name == gpus::GPUS)
}

/// Everything the demonstration writes.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(keep: bool) -> anyhow::Result<Self> {
        // Programs are run in it (the hook), which many machines forbid below their temporary folder.
        let others = ["/var/tmp", "/dev/shm"].map(PathBuf::from);
        let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let places: Vec<PathBuf> = std::iter::once(std::env::temp_dir()).chain(own).chain(others).collect();
        let runs = |place: &&PathBuf| {
            statvfs(place.as_path()).is_ok_and(|of| !of.flags().contains(FsFlags::ST_NOEXEC))
        };
        let place = places.iter().find(runs).with_context(|| {
            let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            format!(
                "programs can't be run below any of {} (noexec): set TMPDIR to a folder where they can",
                shown.join(", ")
            )
        })?;
        // Short: the sockets below it may have 107 bytes.
        let path = place.join(format!("sriov-dra-demo-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("the folder {} can't be made", path.display()))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
