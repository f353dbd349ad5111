//! Which jar has the runner for a cluster: one that was given, one in the cache folder, or one from a Maven repository.

mod download;
mod known;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use runner_core::backend::JobListener;

use super::FlinkConfig;
use super::error::FlinkError;
use super::jar::RunnerJar;
pub use download::DownloadError;
use known::Version;

/// Where Apache releases Beam.
pub const MAVEN_CENTRAL: &str = "https://repo1.maven.org/maven2";

/// How runner jars are had that were not given.
#[derive(Clone, Debug)]
pub struct Downloads {
    /// Where jars are kept. Any that is there already, under Beam's own name for it, is used.
    pub folder: PathBuf,
    /// Base URL of a Maven repository; `None`: what is not in the folder is not to be had.
    pub repository: Option<String>,
    /// The version of Beam whose runner to take, e.g. `2.62.0`; `None`: the newest one in the folder, or the newest one
    /// known here for the cluster's version of Flink.
    pub version: Option<String>,
}

impl Downloads {
    /// # Errors
    /// The repository is no URL, or the version can be none.
    pub(super) fn check(&self) -> Result<(), DownloadError> {
        if let Some(version) = &self.version {
            known::check_version(version)?;
        }
        match &self.repository {
            Some(repository) => download::check_repository(repository),
            None => Ok(()),
        }
    }
}

/// The runner for a cluster of this version.
pub(super) async fn find(
    config: &FlinkConfig,
    master: &str,
    cluster_version: &str,
    listener: &dyn JobListener,
) -> Result<Arc<RunnerJar>, FlinkError> {
    let jars = open(config.runner_jars.clone()).await?;
    let given = jars
        .iter()
        .map(|jar| format!("{} (Flink {})", jar.path().display(), jar.flink_version().unwrap_or("?")))
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(jar) = jars.into_iter().find(|jar| jar.fits(cluster_version)) {
        return Ok(Arc::new(jar));
    }
    let none = |given, otherwise| FlinkError::NoRunnerJar {
        master: master.to_owned(),
        version: cluster_version.to_owned(),
        given,
        otherwise,
    };
    let Some(downloads) = &config.downloads else {
        return Err(none(given, String::new()));
    };
    let path = match had_or_downloaded(downloads, cluster_version, listener).await {
        Err(FlinkError::Download(error)) if !given.is_empty() => {
            return Err(none(given, format!(". Nor is one to be had otherwise: {error}")));
        }
        had => had?,
    };
    let jar = tokio::task::spawn_blocking(move || RunnerJar::open(&path)).await??;
    Ok(Arc::new(jar))
}

/// The jar in the folder, now or when it has been downloaded.
async fn had_or_downloaded(
    downloads: &Downloads,
    cluster_version: &str,
    listener: &dyn JobListener,
) -> Result<PathBuf, FlinkError> {
    let flink = known::minor(cluster_version);
    let artifact = known::artifact(&flink);
    let folder = downloads.folder.clone();
    let wanted = downloads.version.clone();
    let looking = {
        let (artifact, wanted) = (artifact.clone(), wanted.clone());
        tokio::task::spawn_blocking(move || in_folder(&folder, &artifact, wanted.as_deref()))
    };
    if let Some(path) = looking.await? {
        return Ok(path);
    }
    let version = match wanted {
        Some(version) => version,
        None => known::newest_beam(&flink)
            .ok_or_else(|| DownloadError::NotKnown { flink: flink.clone(), known: known::list() })?
            .to_owned(),
    };
    let Some(repository) = &downloads.repository else {
        let folder = downloads.folder.clone();
        return Err(DownloadError::NotInFolder { artifact, version, folder }.into());
    };
    let jar = download::Jar { repository, artifact: &artifact, version: &version };
    Ok(download::download(&jar, &downloads.folder, listener).await?)
}

/// The newest jar of the artifact in the folder, or that of the version.
fn in_folder(folder: &Path, artifact: &str, version: Option<&str>) -> Option<PathBuf> {
    // A folder that is not there has no jars.
    let files = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let jars = files.filter_map(|file| {
        let name = file.file_name().into_string().ok()?;
        let found = name.strip_prefix(artifact)?.strip_prefix('-')?.strip_suffix(".jar")?.to_owned();
        version.is_none_or(|version| version == found).then(|| (Version::read(&found), file.path()))
    });
    jars.max().map(|(_, path)| path)
}

/// Opening one reads its table of contents.
async fn open(paths: Vec<PathBuf>) -> Result<Vec<RunnerJar>, FlinkError> {
    let opening =
        tokio::task::spawn_blocking(move || paths.iter().map(|path| RunnerJar::open(path)).collect());
    opening.await?
}
