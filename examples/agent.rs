//! A personal agent: each user has one, which is a durable object with a memory of its own.
//!
//! ```text
//! cargo run --example agent -- DIR USER
//! > remember that the doves like barley
//! > what do doves like?
//! > in 10 minutes feed the doves
//! ```
//! What it is told, and what it is to remember, are rows of its database; it recalls by full text search. A reminder is an
//! alarm: it fires though the program was not running when it was due. The agent works by tools, with a call and an
//! answer for each, as language models use them; [`think`] stands where the model would be asked.

// `pub` marks what can be called through a stub; the stub's documentation is the method's.
#![allow(unreachable_pub, missing_docs)]

use std::io::BufRead;

use dovehouse::{AlarmInfo, Ctx, Dovehouse, Result};
use serde::{Deserialize, Serialize};

const MINUTE_MS: u64 = 60_000;
/// Messages that are kept; facts are kept until they are forgotten.
const MESSAGES_KEPT: i64 = 1_000;
const DAILY: &str = "daily";

const SCHEMA: [&str; 3] = [
    "CREATE TABLE message(id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL)",
    "CREATE VIRTUAL TABLE fact USING fts5(text, tokenize = 'porter')",
    "CREATE TABLE reminder(id INTEGER PRIMARY KEY, due_ms INTEGER NOT NULL, text TEXT NOT NULL)",
];

/// What the agent can do, as JSON that a model chooses from and fills in:
/// `{"remind": {"text": "feed the doves", "in_minutes": 10}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    Remember {
        text: String,
    },
    Recall {
        question: String,
    },
    Forget {
        fact: i64,
    },
    Remind {
        text: String,
        in_minutes: u64,
    },
    /// Tells once a day, at eight by the clock of a time zone, what there is to remind of.
    Daily {
        zone: String,
    },
}

/// Something that was remembered, and by which number it can be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub number: i64,
    pub text: String,
}

/// What a tool answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    Remembered(i64),
    /// What fits best first.
    Recalled(Vec<Fact>),
    DueMs(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    pub id: i64,
    pub role: String,
    pub text: String,
}

pub struct Agent;

#[dovehouse::object]
impl Agent {
    fn migrate(ctx: &Ctx) -> Result<()> {
        ctx.sql().migrate(&SCHEMA).map(drop)
    }

    fn new() -> Self {
        Agent
    }

    /// The user says something; returns the agent's reply. What was said and what a tool did for it are one commit.
    pub fn say(&mut self, ctx: &Ctx, text: String) -> Result<String> {
        note(ctx, "user", &text)?;
        let reply = match think(&text) {
            Some(tool) => tell(self.call(ctx, tool)?),
            None => "I can remember, recall and remind.".to_owned(),
        };
        note(ctx, "agent", &reply)?;
        Ok(reply)
    }

    /// Uses a tool.
    pub fn call(&mut self, ctx: &Ctx, tool: Tool) -> Result<Answer> {
        let sql = ctx.sql();
        Ok(match tool {
            Tool::Remember { text } => {
                let insert = "INSERT INTO fact(text) VALUES (?) RETURNING rowid";
                Answer::Remembered(sql.exec(insert, (text,))?.one()?.get(0)?)
            }
            Tool::Recall { question } => {
                let search = "SELECT rowid AS number, text FROM fact(?) ORDER BY rank LIMIT 5";
                match any_word(&question) {
                    words if words.is_empty() => Answer::Recalled(Vec::new()),
                    words => Answer::Recalled(sql.exec(search, (words,))?.deserialize()?),
                }
            }
            Tool::Forget { fact } => {
                sql.exec("DELETE FROM fact WHERE rowid = ?", (fact,))?;
                Answer::Done
            }
            Tool::Remind { text, in_minutes } => {
                let due_ms = ctx.now_ms() + in_minutes.saturating_mul(MINUTE_MS).min(1 << 40);
                let insert = "INSERT INTO reminder(due_ms, text) VALUES (?, ?) RETURNING id";
                // An object has 256 alarms at most: without its alarm there is no reminder, either.
                sql.transaction(|sql| {
                    let id: i64 = sql.exec(insert, (due_ms as i64, text))?.one()?.get(0)?;
                    ctx.alarm_named(&id.to_string()).set(due_ms)?;
                    Result::<()>::Ok(())
                })?;
                Answer::DueMs(due_ms)
            }
            Tool::Daily { zone } => {
                ctx.alarm_named(DAILY).cron_in(&zone, "0 8 * * *")?;
                Answer::DueMs(ctx.alarm_named(DAILY).get()?.unwrap_or(0))
            }
        })
    }

    /// What was said after a message, oldest first: reminders, too.
    pub fn conversation(&self, ctx: &Ctx, after: i64) -> Result<Vec<Said>> {
        let messages = "SELECT id, role, text FROM message WHERE id > ? ORDER BY id LIMIT 100";
        ctx.sql().exec(messages, (after,))?.deserialize()
    }

    /// A reminder is due. That it was told and that it is gone are one commit.
    fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo) -> Result<()> {
        if alarm.name == DAILY {
            let waiting = "SELECT text FROM reminder ORDER BY due_ms";
            let waiting: Vec<String> = ctx.sql().exec(waiting, ())?.deserialize()?;
            return note(ctx, "agent", &format!("To come: {}", waiting.join(", ")));
        }
        let id: i64 = alarm.name.parse().unwrap_or(0);
        let due = "DELETE FROM reminder WHERE id = ? RETURNING text";
        let due: Vec<String> = ctx.sql().exec(due, (id,))?.deserialize()?;
        due.iter()
            .try_for_each(|text| note(ctx, "agent", &format!("Remember: {text}")))
    }
}

fn note(ctx: &Ctx, role: &str, text: &str) -> Result<()> {
    let insert = "INSERT INTO message(at_ms, role, text) VALUES (?, ?, ?) RETURNING id";
    let row = ctx
        .sql()
        .exec(insert, (ctx.now_ms() as i64, role, text))?
        .one()?;
    let oldest = row.get::<i64>(0)? - MESSAGES_KEPT;
    ctx.sql()
        .exec("DELETE FROM message WHERE id <= ?", (oldest,))
        .map(drop)
}

/// A search for any of the words of a question. In quotes none of them is taken for an operator.
fn any_word(question: &str) -> String {
    let words = question.split(|letter: char| !letter.is_alphanumeric());
    let words = words.filter(|word| word.chars().count() > 2);
    words
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(" OR ")
}

/// What to do about a message. A model would be given the message, the conversation and the tools, outside of the
/// handler's turn; this one knows three sentences.
fn think(text: &str) -> Option<Tool> {
    let words: Vec<&str> = text.splitn(4, ' ').collect();
    match words[..] {
        ["remember", "that", ..] => {
            let text = words[2..].join(" ");
            Some(Tool::Remember { text })
        }
        ["in", minutes, "minutes", text] => {
            let (in_minutes, text) = (minutes.parse().ok()?, text.to_owned());
            Some(Tool::Remind { text, in_minutes })
        }
        _ if text.ends_with('?') => Some(Tool::Recall {
            question: text.to_owned(),
        }),
        _ => None,
    }
}

fn tell(answer: Answer) -> String {
    match answer {
        Answer::Done | Answer::Remembered(_) => "I will.".to_owned(),
        Answer::DueMs(_) => "I will remind you.".to_owned(),
        Answer::Recalled(facts) if facts.is_empty() => "I do not know.".to_owned(),
        Answer::Recalled(facts) => {
            let texts: Vec<_> = facts.into_iter().map(|fact| fact.text).collect();
            texts.join("; ")
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(user)) = (arguments.next(), arguments.next()) else {
        return Err("usage: agent DIR USER".into());
    };
    let house = Dovehouse::open(dir)?;
    let agent = house.namespace::<Agent>()?.get_by_name(&user);
    let mut shown = 0;
    let mut lines = std::io::stdin().lock().lines();
    loop {
        for Said { id, role, text } in agent.conversation(shown).await? {
            println!("{role}: {text}");
            shown = id;
        }
        let Some(line) = lines.next() else { break };
        agent.say(line?).await?;
    }
    house.close().await?;
    Ok(())
}
