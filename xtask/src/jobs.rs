//! Jobs on a real PostgreSQL, started from the system's packages in a folder of its own.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, output, run, works};

/// Where Debian's packages put the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// How often the servers of a short form are killed.
const SHORT: u32 = 8;

/// How often servers are killed, by which seed.
pub(crate) struct Options {
    kills: u32,
    seed: Option<String>,
}

impl Options {
    /// Reads what `cargo xtask help` lists.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options { kills: SHORT, seed: None };
        for pair in arguments.chunks(2) {
            match pair {
                ["--kills", count] => {
                    options.kills =
                        count.parse().with_context(|| format!("`{count}` is no count"))?;
                }
                ["--seed", seed] => options.seed = Some((*seed).to_owned()),
                other => bail!(
                    "`{}` is no option of jobs; `cargo xtask help` lists them",
                    other.join(" ")
                ),
            }
        }
        Ok(options)
    }

    /// So many kills by that seed.
    pub(crate) fn soak(kills: u32, seed: u64) -> Options {
        Options { kills, seed: Some(format!("{seed:#x}")) }
    }
}

/// The tests of stores and of servers that are killed, on a PostgreSQL; where there is none, says so.
pub(crate) fn jobs_if_there(options: &Options) -> Result<()> {
    match programs() {
        Some(programs) => jobs_with(&programs, options),
        None => {
            println!(
                "left out: jobs on PostgreSQL; add it with `apt-get install postgresql` (15 or later)"
            );
            Ok(())
        }
    }
}

/// The same; it is an error if there is none.
pub(crate) fn jobs(options: &Options) -> Result<()> {
    let programs = programs().with_context(|| {
        format!("no initdb in {DEBIAN}/*/bin, nor in HALFBYTE_POSTGRES_BIN; `apt-get install postgresql`")
    })?;
    jobs_with(&programs, options)
}

fn jobs_with(programs: &Path, options: &Options) -> Result<()> {
    let database = Database::start(programs)?;
    run(cargo().env("HALFBYTE_TEST_POSTGRES", &database.url).args([
        "test",
        // The whole workspace, for its features: with those of a package alone, much would be built anew.
        "--workspace",
        "--locked",
        "--test",
        "store",
    ]))?;
    let mut kill = cargo();
    kill.env("HALFBYTE_TEST_POSTGRES", &database.url)
        .env("HALFBYTE_SOAK_JOBS", options.kills.to_string());
    if let Some(seed) = &options.seed {
        kill.env("HALFBYTE_SOAK_SEED", seed);
    }
    run(kill.args(["test", "--workspace", "--locked", "--test", "jobs"]).args([
        "--",
        "--nocapture",
        "servers_that_share_a_postgresql_lose_no_job_when_killed",
    ]))
}

/// The programs of the latest version that is here.
fn programs() -> Option<PathBuf> {
    if let Some(named) = env::var_os("HALFBYTE_POSTGRES_BIN") {
        return Some(named.into());
    }
    let version = |path: &PathBuf| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    let versions = fs::read_dir(DEBIAN).ok()?.flatten().map(|entry| entry.path());
    let latest = versions.filter(|path| path.join("bin/initdb").exists()).max_by_key(version)?;
    Some(latest.join("bin"))
}

/// A database that ends with this, and leaves nothing.
struct Database {
    programs: PathBuf,
    folder: PathBuf,
    url: String,
}

impl Database {
    fn start(programs: &Path) -> Result<Database> {
        let folder = env::temp_dir().join(format!("halfbyte-postgres-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // As long as it is held, nobody else gets it; then somebody may, and the start says so.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let url = format!("postgres://halfbyte@127.0.0.1:{port}/postgres");
        let database = Database { programs: programs.to_owned(), folder, url };
        if is_root()? {
            output(Command::new("chown").arg("nobody").arg(&database.folder))?;
        }
        let data = database.data();
        let mut made = database.program("initdb")?;
        made.args(["--auth=trust", "--username=halfbyte", "--encoding=UTF8", "--locale=C", "-D"]);
        output(made.arg(&data))?;
        let how = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={} -c max_connections=200",
            database.folder.display()
        );
        let mut start = database.program("pg_ctl")?;
        start.args(["start", "--wait", "--silent", "-o", &how, "-D"]).arg(&data);
        start.arg("-l").arg(database.folder.join("log"));
        run(&mut start)?;
        Ok(database)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// One of its programs, which refuse to be root.
    fn program(&self, name: &str) -> Result<Command> {
        let program = self.programs.join(name);
        let mut command = match is_root()? {
            false => Command::new(program),
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
                command
            }
        };
        command.current_dir(&self.folder);
        Ok(command)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut stop) = self.program("pg_ctl") {
            works(stop.args(["stop", "--mode=immediate", "-D"]).arg(self.data()));
        }
        // What is left lies where the system cleans up.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_are_read_and_refused() {
        let options = Options::parse(&["--kills", "3", "--seed", "0xbeef"]).unwrap();
        assert_eq!((options.kills, options.seed.as_deref()), (3, Some("0xbeef")));
        for wrong in [["--kills", "many"].as_slice(), &["--kills"], &["--rounds", "1"]] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
