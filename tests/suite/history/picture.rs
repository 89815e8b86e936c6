//! A drawing of a history, as an SVG: one lane for each node and one for users.

use std::fmt::Write;

use super::{Entry, History, NAMES, Span};

const LEFT: u64 = 90;
/// How wide a short history is, but a second has at least so many pixels; and how high the lanes are.
const WIDTH: u64 = 900;
const SECOND: u64 = 12;
const NODE: u64 = 120;
const OTHER: u64 = 44;

const LEADS: &str = "#2b8a3e";
const FOLLOWS: &str = "#adb5bd";
const UNKNOWN: &str = "#e8590c";
const FAULT: &str = "#c92a2a";
const HELD: &str = "#f08c00";
const PAUSE: &str = "#ffe8cc";
const COLOURS: [&str; 3] = ["#1c7ed6", "#9c36b5", "#0c8599"];

const LEGEND: [(&str, &str); 9] = [
    (LEADS, "leads"),
    (FOLLOWS, "follows"),
    (UNKNOWN, "unknown"),
    (FAULT, "fault, or a failed connection"),
    (COLOURS[0], "node1"),
    (COLOURS[1], "node2"),
    (COLOURS[2], "node3"),
    (HELD, "held"),
    (PAUSE, "the machine paused"),
];

struct Svg {
    text: String,
    part: Span,
}

impl Svg {
    fn x(&self, at: u64) -> u64 {
        let second = (WIDTH * 1000 / (self.part.1 - self.part.0)).max(SECOND);
        LEFT + (at.clamp(self.part.0, self.part.1) - self.part.0) * second / 1000
    }

    fn bar(&mut self, entry: &Entry, y: u64, height: u64, colour: &str) {
        let (from, to) = (self.x(entry.span.0), self.x(entry.span.1));
        let title = entry.text.replace('&', "&amp;").replace('<', "&lt;");
        let (kind, seconds, width) = (&entry.kind, entry.span.0 as f64 / 1000., (to - from).max(2));
        writeln!(
            self.text,
            "<rect x=\"{from}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{colour}\"><title>{seconds} s: {kind} {title}</title></rect>",
        )
        .unwrap();
    }

    fn word(&mut self, x: u64, y: u64, word: &str) {
        writeln!(self.text, "<text x=\"{x}\" y=\"{y}\">{word}</text>").unwrap();
    }
}

/// Draws what was in this part of the history.
pub fn picture(history: &History, part: Span) -> String {
    let is_in = |entry: &&Entry| entry.span.0 <= part.1 && entry.span.1 >= part.0;
    let history = &History(history.0.iter().filter(is_in).cloned().collect());
    let mut svg = Svg {
        text: String::new(),
        part,
    };
    let (width, users) = (svg.x(part.1) + 20, 30 + 3 * NODE);
    let height = users + 2 * OTHER + 40;
    svg.text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    history.of("pause").for_each(|pause| svg.bar(pause, 20, height, PAUSE));
    let step = if part.1 - part.0 > 60_000 { 5 } else { 1 };
    for second in (part.0.div_ceil(1000)..=part.1 / 1000).step_by(step) {
        svg.word(svg.x(second * 1000), 12, &format!("{second} s"));
    }
    for (node, name) in NAMES.iter().enumerate() {
        let y = 24 + node as u64 * NODE;
        let of = |kind| history.of(kind).filter(move |entry| entry.node == Some(node));
        for (row, word) in ["list says", "answers", "has the address"].iter().enumerate() {
            svg.word(4, y + 12 + row as u64 * 14, word);
        }
        svg.word(4, y + 64, name);
        for view in of("view") {
            svg.bar(view, y + 4, 10, if view.text == *name { LEADS } else { FOLLOWS });
        }
        // One bar for equal answers, one after the other.
        let mut answers: Vec<Entry> = Vec::new();
        for check in of("check") {
            match answers.last_mut().filter(|last| last.text == check.text) {
                Some(last) => last.span.1 = check.span.1,
                None => answers.push(check.clone()),
            }
        }
        for answer in &answers {
            let colour = match answer.text.as_str() {
                "leader" => LEADS,
                "follower" => FOLLOWS,
                text if text.starts_with("unknown") => UNKNOWN,
                _ => FAULT,
            };
            svg.bar(answer, y + 18, 10, colour);
            let reason = answer.text.trim_start_matches("unknown ");
            let (from, to) = (svg.x(answer.span.0), svg.x(answer.span.1));
            if colour == UNKNOWN && to - from > 6 * reason.len() as u64 {
                svg.word(from, y + 27, reason);
            }
        }
        of("holder").for_each(|holder| svg.bar(holder, y + 34, 4, COLOURS[node]));
        // Each fault in the first row that is free.
        let mut free = [0; 5];
        for fault in of("fault") {
            let (from, to) = (svg.x(fault.span.0), svg.x(fault.span.1));
            let row = free.iter().position(|free| *free <= from).unwrap_or(4);
            let row_y = y + 44 + row as u64 * 14;
            svg.bar(fault, row_y + 8, 3, FAULT);
            svg.word(from, row_y + 6, &fault.text);
            free[row] = to.max(from + 6 * fault.text.len() as u64);
        }
    }
    for (lane, kind) in ["user", "session"].iter().enumerate() {
        let y = users + lane as u64 * OTHER;
        svg.word(4, y + 14, ["users", "a session"][lane]);
        for entry in history.of(kind) {
            let colour = entry.node.map_or(FAULT, |node| COLOURS[node]);
            if *kind == "user" && entry.span.1 - entry.span.0 > 200 {
                svg.bar(entry, y + 18, 6, HELD);
            }
            let at = if *kind == "user" { entry.span.1 } else { entry.span.0 };
            let arrived = Entry {
                span: (at, entry.span.1),
                ..entry.clone()
            };
            svg.bar(&arrived, y + 4, 12, colour);
        }
    }
    let (mut x, y) = (4, height - 20);
    for (colour, word) in LEGEND {
        writeln!(
            svg.text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
        )
        .unwrap();
        svg.word(x + 13, y + 9, word);
        x += 30 + 6 * word.len() as u64;
    }
    svg.text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_happened_has_its_colour() {
        let mut history = History::default();
        history.add((0, 4000), "view", Some(1), "node2");
        history.add((0, 10), "check", Some(1), "unknown s9s-timeout");
        history.add((1000, 3000), "fault", Some(0), "s9s <hangs>");
        history.add((2000, 2500), "user", None, "connection reset");
        let picture = picture(&history, (0, 75_000));
        let rectangle = |x: u64, width: u64, colour: &str, title: &str| {
            let [x, width] = [format!("<rect x=\"{x}\""), format!("width=\"{width}\"")];
            let mut lines = picture.lines();
            lines.any(|line| [&x, &width, colour, title].iter().all(|part| line.contains(*part)))
        };
        assert!(rectangle(90, 48, LEADS, "<title>0 s: view node2</title>"));
        assert!(rectangle(90, 2, UNKNOWN, "check unknown s9s-timeout<"));
        assert!(rectangle(102, 24, FAULT, "s9s &lt;hangs>"));
        assert!(rectangle(114, 6, HELD, "user connection reset"));
        assert!(rectangle(120, 2, FAULT, "2.5 s: user connection reset"));
    }
}
