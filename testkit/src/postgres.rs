//! `PostgreSQL` for tests: a given server, or one of this process's own from the installed binaries.
//!
//! The own server keeps the defaults that make commits durable, since that is what the services rely on. It refuses to run as root, so
//! there it runs as `postgres` or `nobody`.

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rand::RngExt as _;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

use crate::{
    paths::{RunDir, is_program, on_path},
    ports,
    process::{Part, Program, Signal},
};

const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The server's superuser. It needs no password: the server listens on the loopback interface alone.
const SUPERUSER: &str = "postgres";

/// The server that all of this process share.
static SHARED: OnceCell<Postgres> = OnceCell::const_new();

/// How much memory and disk a server takes.
#[derive(Clone, Copy, Debug)]
enum Size {
    /// As little as tests need, many of them at once.
    Small,
    Usual,
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    /// Of its maintenance database.
    url: String,
    part: Option<Part>,
}

impl Postgres {
    /// The one server that the tests of this process share: the one at `TEST_DATABASE_URL`, else a new one.
    ///
    /// # Errors
    /// When there is none to be had; the message says what to install.
    pub async fn shared() -> Result<&'static Self> {
        SHARED.get_or_try_init(|| Self::start(Size::Small)).await
    }

    /// The same, with the memory and the write-ahead log that `PostgreSQL` has unless it is told otherwise, and as if it had
    /// run for a while: what a benchmark should measure. Where the server was started before, it is as it was started.
    ///
    /// # Errors
    /// When there is none to be had; the message says what to install.
    pub async fn shared_of_usual_size() -> Result<&'static Self> {
        SHARED.get_or_try_init(|| Self::start(Size::Usual)).await
    }

    async fn start(size: Size) -> Result<Self> {
        if let Ok(url) = env::var("TEST_DATABASE_URL") {
            let server = Self { url, part: None };
            server.ping().await.context("TEST_DATABASE_URL is set, and no server answers there")?;
            return Ok(server);
        }
        let binaries = binaries()?;
        // Statics are never dropped: the watchdog removes the folder when this process has ended.
        let folder = RunDir::temporary()?.keep();
        let user = unprivileged_user()?;
        if let Some((user, group)) = user {
            chown(&folder, Some(user), Some(group)).context("cannot give the data folder away")?;
        }
        let program = |name: &str| {
            let program = Program::new(name, binaries.join(name), folder.join(format!("{name}.log")));
            match user {
                Some((user, group)) => program.user(user, group),
                None => program,
            }
        };

        let data = folder.join("data");
        program("initdb")
            .args(["--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"])
            .args(["--pgdata".as_ref(), data.as_os_str()])
            .run(START_TIMEOUT)
            .await?;
        let port = ports::free()?;
        let program = program("postgres")
            .args(["-D".as_ref(), data.as_os_str()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c".to_owned(), format!("port={port}")])
            .args(["-c", "max_connections=300"])
            .args(match size {
                Size::Small => &["-c", "shared_buffers=32MB", "-c", "max_wal_size=128MB"][..],
                Size::Usual => &[],
            })
            // Its immediate shutdown: also the way to end its workers, which are in process groups of their own.
            .stop_signal(Signal::QUIT)
            .scratch(&folder);
        let url = format!("postgres://{SUPERUSER}@127.0.0.1:{port}/postgres");
        let server = Self { url, part: Some(Part::new(program)) };
        server.launch().await?;
        if let Size::Usual = size {
            server.fill_log().await?;
        }
        Ok(server)
    }

    /// Writes as much as `max_wal_size` is by default. From then on the files of the write-ahead log are used again, one
    /// after the other; a new server makes one for each 16 MB and fills it with zeros, while a commit waits for 60 to 90 ms.
    async fn fill_log(&self) -> Result<()> {
        let megabytes = 1024;
        self.execute(&format!(
            "select count(pg_logical_emit_message(false, 'fill', repeat('x', 1048576))) from generate_series(1, {megabytes})"
        ))
        .await?;
        self.execute("checkpoint").await
    }

    /// Whether it is this process's own, and so may be crashed.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.part.is_some()
    }

    /// The id of its process, where it is this process's own and runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.part.as_ref()?.id()
    }

    /// Where it listens, `host:port`.
    ///
    /// # Errors
    /// When its URL is malformed.
    pub fn address(&self) -> Result<String> {
        let options = self.options()?;
        Ok(format!("{}:{}", options.get_host(), options.get_port()))
    }

    /// Ends it and all its sessions at once, without a checkpoint, as a crash would (its immediate shutdown).
    ///
    /// # Errors
    /// When it is somebody else's, or does not end.
    pub async fn crash(&self) -> Result<()> {
        self.part.as_ref().context("the PostgreSQL server is not this process's to crash")?.stop().await
    }

    /// Starts it again after [`crash`](Self::crash), and waits until it answers. A given server is left alone.
    ///
    /// # Errors
    /// When it does not answer in time; the end of its log is in the message.
    pub async fn launch(&self) -> Result<()> {
        let Some(part) = &self.part else { return Ok(()) };
        part.spawn()?;
        part.ready(START_TIMEOUT, || async { self.ping().await.is_ok() }).await
    }

    /// Creates an empty database and returns its URL. The name is made unique.
    ///
    /// # Errors
    /// When `name` is no plain identifier or the server refuses.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        ensure!(
            !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'),
            "{name:?} is no name for a database: a to z and _"
        );
        let name = format!("{name}_{:08x}", rand::rng().random::<u32>());
        self.execute(&format!("create database {name}")).await?;
        Ok(self.options()?.database(&name).to_url_lossy().to_string())
    }

    /// Ends all sessions on a database, as its administrator may; returns how many there were.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn end_sessions(&self, database: &str) -> Result<usize> {
        let mut connection = self.options()?.connect().await.context("cannot connect to PostgreSQL")?;
        let ended = sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1")
            .bind(database)
            .fetch_all(&mut connection)
            .await
            .with_context(|| format!("cannot end the sessions on {database}"))?;
        connection.close().await?;
        Ok(ended.len())
    }

    /// Makes the database `copy` a copy of the database `of`, whose sessions are ended. One that exists is replaced.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn copy_database(&self, of: &str, copy: &str) -> Result<()> {
        self.execute(&format!("drop database if exists {copy} with (force)")).await?;
        self.end_sessions(of).await?;
        self.execute(&format!("create database {copy} template {of}")).await
    }

    async fn execute(&self, statement: &str) -> Result<()> {
        let mut connection = self.options()?.connect().await.context("cannot connect to PostgreSQL")?;
        let statement_text = AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement_text).execute(&mut connection).await.with_context(|| format!("cannot {statement}"))?;
        Ok(connection.close().await?)
    }

    /// Freezes it: connections are accepted by the kernel, and nobody answers new ones. A given server is left alone.
    pub fn pause(&self) {
        if let Some(part) = &self.part {
            part.pause();
        }
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) {
        if let Some(part) = &self.part {
            part.resume();
        }
    }

    async fn ping(&self) -> Result<()> {
        let mut connection = self.options()?.connect().await?;
        connection.ping().await?;
        Ok(connection.close().await?)
    }

    fn options(&self) -> Result<PgConnectOptions> {
        self.url.parse().context("the URL of the PostgreSQL server is malformed")
    }
}

/// The folder with `initdb` and `postgres`: of one version, and the newest where there are several.
fn binaries() -> Result<PathBuf> {
    let complete = |folder: &PathBuf| ["initdb", "postgres"].iter().all(|name| is_program(&folder.join(name)));
    let on_path = on_path("initdb").and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_path_buf()));
    let mut installed: Vec<PathBuf> = ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| version(folder).is_some())
        .collect();
    installed.sort_by_key(|folder| version(folder));
    let candidates = on_path.into_iter().chain(installed.into_iter().rev().map(|folder| folder.join("bin")));
    candidates.into_iter().find(complete).context(
        "no PostgreSQL server: install one (Debian: apt-get install postgresql, Homebrew: brew install postgresql@17), \
         or set TEST_DATABASE_URL to one where databases may be created",
    )
}

/// The major version in a folder's name, such as `15` or `postgresql@17`.
fn version(folder: &Path) -> Option<u32> {
    let name = folder.file_name()?.to_str()?;
    name.strip_prefix("postgresql@").unwrap_or(name).parse().ok()
}

/// Whom the server runs as where this process is root; nobody else where it is not.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    for user in [SUPERUSER, "nobody"] {
        if let (Some(id), Some(group)) = (id_of("-u", user), id_of("-g", user)) {
            return Ok(Some((id, group)));
        }
    }
    bail!("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}

fn id_of(kind: &str, user: &str) -> Option<u32> {
    let answer = Command::new("id").args([kind, user]).output().ok()?;
    String::from_utf8(answer.stdout).ok()?.trim().parse().ok()
}
