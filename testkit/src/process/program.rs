//! What to run, and how: the gate and the watchdog are here.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};

use super::{Process, lock};

/// Waits for the go-ahead, then becomes the program with an empty standard input. Without the go-ahead it just ends.
const GATE: &str = r#"read -r go || exit 125; exec "$@" </dev/null"#;

/// Waits for its standard input to close. A line on it means that all is well. Otherwise: signal `$2` to group `$1`,
/// five seconds later KILL, then remove the directory `$3` if one is given.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r done && exit 0
kill -s "$2" -- "-$1"
kill -s CONT -- "-$1"
n=0
while kill -s 0 -- "-$1" && [ "$n" -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
kill -s KILL -- "-$1"
[ -z "$3" ] || rm -rf -- "$3"
"#;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<String, OsString>,
    inherit: Inherit,
    user: Option<(u32, u32)>,
    pub(super) log: PathBuf,
    output: Output,
    pub(super) stop: Signal,
    scratch: Option<PathBuf>,
}

/// Where standard output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Output {
    Log,
    File(PathBuf),
    /// To this process's own, and errors to its own errors.
    Ours,
}

/// Which variables of this process a child gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inherit {
    All,
    Essentials,
}

impl Program {
    /// The program at `path`, called `name` in messages, with everything it prints appended to the file `log`.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            inherit: Inherit::All,
            user: None,
            log: log.into(),
            output: Output::Log,
            stop: Signal::TERM,
            scratch: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.environment.insert(key.into(), value.into());
        self
    }

    /// Does not set this variable after all.
    #[must_use]
    pub fn without_env(mut self, key: &str) -> Self {
        self.environment.remove(key);
        self
    }

    /// Hides this process's environment from the child, but for what any program needs (search path, home, locale).
    #[must_use]
    pub fn hermetic(mut self) -> Self {
        self.inherit = Inherit::Essentials;
        self
    }

    /// Runs the program as this user and group (only root can).
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.user = Some((user, group));
        self
    }

    /// Appends what it prints to this file instead.
    #[must_use]
    pub fn log_to(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = log.into();
        self
    }

    /// The value that it is given for an environment variable.
    #[must_use]
    pub fn variable(&self, key: &str) -> Option<&str> {
        self.environment.get(key)?.to_str()
    }

    /// Sends standard output to this file instead of the log.
    #[must_use]
    pub fn output(mut self, file: impl Into<PathBuf>) -> Self {
        self.output = Output::File(file.into());
        self
    }

    /// Shows what the program prints as if this process printed it, and keeps no log.
    #[must_use]
    pub fn visible(mut self) -> Self {
        self.output = Output::Ours;
        self
    }

    /// The signal that asks the program to end, TERM unless told.
    #[must_use]
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.stop = signal;
        self
    }

    /// A directory for the watchdog to remove, should this process end without doing so.
    #[must_use]
    pub fn scratch(mut self, directory: impl Into<PathBuf>) -> Self {
        self.scratch = Some(directory.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the log cannot be opened or the process cannot be started.
    ///
    /// # Panics
    /// Never: the pipe it relies on has just been made.
    pub fn spawn(&self) -> Result<Process> {
        // One at a time: where pipes cannot be created close-on-exec in one step, a concurrent start could inherit ours.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = lock(&ONE_AT_A_TIME);

        let mut child = self.gate()?.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let group = pid_of(&child)?;
        let watchdog = match self.watchdog(group).spawn() {
            Ok(watchdog) => watchdog,
            Err(error) => {
                let _ = child.kill();
                return Err(error).with_context(|| format!("cannot start the watchdog of {}", self.name));
            }
        };
        let go_ahead = child.stdin.take().expect("standard input is piped");
        let process = Process::new(self.clone(), group, child, watchdog);
        { go_ahead }.write_all(b"go\n").with_context(|| format!("cannot open the gate of {}", self.name))?;
        Ok(process)
    }

    /// Runs it to its end and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it cannot be started, takes longer than `timeout` or does not succeed; the end of its log is in the message.
    pub async fn run(&self, timeout: Duration) -> Result<String> {
        let output = match &self.output {
            Output::File(file) => file.clone(),
            Output::Log | Output::Ours => self.log.with_extension("out"),
        };
        let process = self.clone().output(&output).spawn()?;
        let status = process.wait(timeout).await?;
        if !status.success() {
            bail!("{} failed ({status})\n{}", self.name, process.log_tail());
        }
        std::fs::read_to_string(&output).with_context(|| format!("cannot read {}", output.display()))
    }

    fn gate(&self) -> Result<Command> {
        let mut command = Command::new("/bin/sh");
        if self.output != Output::Ours {
            let log = open_log(&self.log)?;
            command.stderr(log.try_clone().context("cannot share the log")?);
            command.stdout(match &self.output {
                Output::File(file) => {
                    File::create(file).with_context(|| format!("cannot create {}", file.display()))?
                }
                _ => log,
            });
        }
        if self.inherit == Inherit::Essentials {
            command.env_clear().envs(essentials());
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
            .args(["-c", GATE, &self.name])
            .arg(&self.path)
            .args(&self.arguments)
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .process_group(0);
        Ok(command)
    }

    fn watchdog(&self, group: Pid) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(group.to_string())
            .arg(signal_name(self.stop))
            .arg(self.scratch.clone().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        command
    }
}

/// What any program needs to find its tools, and what coverage tools set.
fn essentials() -> impl Iterator<Item = (OsString, OsString)> {
    const NAMES: [&str; 9] =
        ["PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE", "LLVM_PROFILE_FILE", "SSL_CERT_FILE"];
    std::env::vars_os().filter(|(name, _)| NAMES.iter().any(|essential| name == essential))
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id is a positive i32")
}

/// The name that `kill -s` takes.
fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "INT",
        Signal::QUIT => "QUIT",
        Signal::KILL => "KILL",
        _ => "TERM",
    }
}
