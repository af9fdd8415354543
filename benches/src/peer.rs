//! A client as a process of its own: this program again, asked and answering in lines of JSON.
//!
//! So the load never shares a heap, a runtime or a descriptor limit with what is measured, nor with the one who counts.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

/// The side that asks. Dropped, the process is killed.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

#[derive(Debug, Deserialize, Serialize)]
enum Answer<T> {
    Done(T),
    Failed(String),
}

impl Peer {
    /// Starts this program in a role.
    pub(crate) fn start(role: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {role}"))?;
        let questions = child.stdin.take().context("no pipe")?;
        let answers = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        Ok(Self {
            child,
            questions,
            answers,
        })
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the client process has ended")
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(&mut self, question: &Q) -> anyhow::Result<A> {
        let mut line = serde_json::to_string(question)?;
        line.push('\n');
        self.questions.write_all(line.as_bytes()).await?;
        let line = self.answers.next_line().await?.context("the client process ended")?;
        match serde_json::from_str(&line)? {
            Answer::Done(answer) => Ok(answer),
            Answer::Failed(why) => Err(anyhow!(why)),
        }
    }
}

/// The side that answers, until nobody asks any more.
pub(crate) async fn answer<Q: DeserializeOwned, A: Serialize>(
    mut handler: impl AsyncFnMut(Q) -> anyhow::Result<A>,
) -> anyhow::Result<()> {
    let (sender, mut questions) = mpsc::unbounded_channel();
    // Ends with the process: nobody waits for it.
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        lines.map(|line| sender.send(line)).find(Result::is_err)
    });
    while let Some(line) = questions.recv().await {
        let answer = match handler(serde_json::from_str(&line)?).await {
            Ok(answer) => Answer::Done(answer),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        std::io::stdout().write_all(line.as_bytes())?;
    }
    Ok(())
}
