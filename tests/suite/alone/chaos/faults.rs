//! The faults: this makes everything go wrong.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Dice;
use super::accounting::History;
use super::machine::{Held, Machine, Xinetd, name};
use crate::cluster::wait_until;

/// Makes everything go wrong.
pub struct Chaos<'a> {
    pub machine: &'a Machine<'a>,
    pub xinetd: Xinetd,
    pub history: History,
    pub dice: Dice,
    pub covered: bool,
}

impl Chaos<'_> {
    pub fn lead(&mut self, leads: bool) {
        let before = Instant::now();
        self.machine
            .cluster
            .leads(if leads { "10.0.0.101" } else { "10.0.0.102" });
        self.history.leads.push((before, Instant::now(), leads));
    }

    /// Puts the simulated s9s, a file that cannot be executed, or nothing in s9s's place.
    fn install(&self, what: &str) {
        let folder = &self.machine.cluster.folder;
        match what {
            "sim" => {
                let draft = folder.join("s9s.draft");
                let _ = fs::remove_file(&draft);
                symlink(folder.join("sim"), &draft).unwrap();
                fs::rename(draft, folder.join("s9s")).unwrap();
            }
            "text" => {
                folder.write("s9s", "#!/bin/sh\n");
                fs::set_permissions(folder.join("s9s"), Permissions::from_mode(0o644)).unwrap();
            }
            _ => drop(fs::remove_file(folder.join("s9s"))),
        }
    }

    /// Makes the disk of the lock file read-only, full, or as it was.
    fn disk(&mut self, what: &str) {
        let locks = self.machine.locks.to_str().unwrap();
        if self.covered {
            self.machine.run("umount", &["--lazy", locks]);
            self.covered = false;
        }
        let disk = self.machine.disk();
        let _ = fs::remove_file(disk.join("ballast"));
        match what {
            // Mounted over the real disk, which cannot become read-only while checks write to it.
            "read-only" => {
                self.machine.run("mount", &["-t", "tmpfs", "-o", "ro", "tmpfs", locks]);
                self.covered = true;
            }
            "full" => {
                // An existing lock file would stay usable on a full disk.
                let _ = fs::remove_file(disk.join("lock"));
                let _ = fs::write(disk.join("ballast"), vec![0; 1024 * 1024]);
            }
            _ => {}
        }
    }

    /// Kills some processes of checks: the checks themselves, or what they have started. It spares what
    /// a killed check has left, because that must end by itself.
    fn kill(&mut self, checks: bool, limit: usize) {
        let pids = self.machine.cluster.processes();
        let mut victims: Vec<Held> = pids.into_iter().filter_map(Held::new).collect();
        let killed = |victim: &Held| {
            let client = victim.variable("REMOTE_HOST");
            client.is_some_and(|client| self.history.killed.contains(&client.parse().unwrap()))
        };
        victims.retain(|victim| victim.is_check() == checks && !killed(victim));
        for _ in 0..limit.min(victims.len()) {
            let victim = victims.swap_remove(self.dice.below(victims.len()));
            let Some(client) = victim.variable("REMOTE_HOST") else {
                continue;
            };
            if checks {
                self.history.killed.insert(client.parse().unwrap());
            }
            victim.kill();
        }
    }

    fn restart_xinetd(&mut self, instances: usize) {
        let before = Instant::now();
        let xinetd = Held::new(self.xinetd.pid).unwrap();
        xinetd.kill();
        wait_until("xinetd is gone", || !name(self.xinetd.pid).contains("xinetd"));
        self.xinetd = Xinetd::start(self.machine, instances);
        self.history.without_xinetd.push((before, self.xinetd.started));
    }

    /// Makes xinetd read its service file again; it needs descriptors for that.
    fn reload_xinetd(&mut self) {
        self.xinetd.limit(None, None);
        let log = self.machine.cluster.folder.join("xinetd.log");
        let reloads = || fs::read_to_string(&log).unwrap().matches("Reconfigured:").count();
        let before = reloads();
        kill(Pid::from_raw(self.xinetd.pid.cast_signed()), Signal::SIGHUP).unwrap();
        wait_until("xinetd has read its files again", || reloads() > before);
    }

    pub fn event(&mut self) {
        let cluster = self.machine.cluster;
        let garbage = cluster.folder.join("garbage").display().to_string();
        let event = match self.dice.below(100) {
            0..30 => {
                let behaviours = [
                    "list",
                    "list",
                    "list",
                    "slow 0.2",
                    "slow 0.4",
                    "slow 1",
                    "hang",
                    "crash",
                    "flood",
                    "flood-errors",
                    "stray",
                    "stubborn",
                    "orphan",
                    "flaky 3",
                    "fail 5 Connection refused.",
                    "colour",
                ];
                match self.dice.below(behaviours.len() + 1) {
                    0 => cluster.behaves(&format!("print {garbage}")),
                    other => cluster.behaves(behaviours[other - 1]),
                }
                "s9s behaves in another way"
            }
            30..38 => {
                let what = ["sim", "sim", "text", "nothing"][self.dice.below(4)];
                self.install(what);
                "s9s is another program"
            }
            38..48 => {
                let leads = self.dice.below(2) == 0;
                self.lead(leads);
                "the leader is another one"
            }
            48..66 => {
                let limit = 1 + self.dice.below(3);
                self.kill(true, limit);
                "checks are killed"
            }
            66..76 => {
                let limit = 1 + self.dice.below(3);
                self.kill(false, limit);
                "s9s is killed"
            }
            76..79 => {
                let instances = [1500, 1500, 1500, 12][self.dice.below(4)];
                self.restart_xinetd(instances);
                "xinetd is killed"
            }
            79..81 => {
                self.reload_xinetd();
                "xinetd reads its files again"
            }
            81..90 => {
                let what = ["fine", "fine", "read-only", "full"][self.dice.below(4)];
                self.disk(what);
                "the disk is in another state"
            }
            _ => {
                let descriptors = self.dice.below(9);
                let processes = self.dice.below(25);
                let (few, fewer) = (self.dice.below(3) == 0, self.dice.below(3) == 0);
                self.xinetd
                    .limit(few.then_some(descriptors), fewer.then_some(processes));
                "other limits hold"
            }
        };
        *self.history.count.entry(event).or_default() += 1;
    }

    /// Repairs everything.
    pub fn end(&mut self) {
        self.machine.cluster.behaves("list");
        self.install("sim");
        self.disk("fine");
        self.restart_xinetd(1500);
        self.lead(true);
    }
}
