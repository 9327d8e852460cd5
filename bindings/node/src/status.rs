//! `status`: the node's facts and what lies in the storage.

use crate::args::Status;
use crate::failure::Result;
use crate::progress::bytes;
use apiary::{Apiary, Frame, FrameInfo, NodeStatus};
use futures::StreamExt;
use serde_json::{Value, json};
use std::io::Write;

/// Frames whose ledgers are read at once.
const FRAMES_AT_ONCE: usize = 8;

/// A frame and its facts, or why there are none: one broken frame must not hide the others.
struct Line {
    name: String,
    info: apiary::Result<FrameInfo>,
}

pub async fn status(options: &Status, apiary: &Apiary) -> Result<()> {
    let mut frames = Vec::new();
    let hives = apiary.hives().await?;
    let mut box_count = 0;
    for hive in &hives {
        let boxes = hive.boxes().await?;
        box_count += boxes.len();
        for box_ns in boxes {
            frames.extend(box_ns.frames().await?);
        }
    }
    let lines: Vec<Line> = futures::stream::iter(frames)
        .map(line)
        .buffered(FRAMES_AT_ONCE)
        .collect()
        .await;
    let node = apiary.status().await?;
    let mut out = std::io::stdout().lock();
    if options.json {
        let value = as_json(&node, hives.len(), box_count, &lines);
        writeln!(out, "{value:#}")?;
    } else {
        write!(out, "{}", as_text(&node, hives.len(), box_count, &lines))?;
    }
    Ok(())
}

async fn line(frame: Frame) -> Line {
    Line {
        name: frame.name().to_string(),
        info: frame.info().await,
    }
}

fn as_json(node: &NodeStatus, hives: usize, boxes: usize, lines: &[Line]) -> Value {
    let frames: Vec<Value> = lines
        .iter()
        .map(|line| match &line.info {
            Ok(info) => json!({
                "frame": line.name,
                "version": info.version,
                "rows": info.row_count,
                "cells": info.cell_count,
                "bytes": info.total_bytes,
                "partition_by": info.partition_by,
                "location": info.location,
                "attached": info.attached,
            }),
            Err(error) => json!({ "frame": line.name, "error": error.to_string() }),
        })
        .collect();
    json!({
        "node": node,
        "storage": { "hives": hives, "boxes": boxes, "frames": frames },
    })
}

fn as_text(node: &NodeStatus, hives: usize, boxes: usize, lines: &[Line]) -> String {
    let NodeStatus {
        name,
        storage,
        memory_bytes,
        memory_per_bee_bytes,
        ..
    } = node;
    let mut text = format!(
        "node      {name}\nstorage   {storage}\nmemory    {}, {} for each of {} bees\n",
        bytes(*memory_bytes),
        bytes(*memory_per_bee_bytes),
        node.bees.len()
    );
    text.push_str(&format!(
        "load      {:.2} ({})\n",
        node.temperature, node.regulation
    ));
    text.push_str(&format!(
        "hives     {hives}\nboxes     {boxes}\nframes    {}\n",
        lines.len()
    ));
    if lines.is_empty() {
        return text;
    }
    let width = lines
        .iter()
        .map(|line| line.name.chars().count())
        .max()
        .unwrap_or(0)
        .max(5);
    text.push_str(&format!(
        "\n{:<width$} {:>8} {:>14} {:>8} {:>12}\n",
        "frame", "version", "rows", "cells", "size"
    ));
    for Line { name, info } in lines {
        match info {
            Ok(info) => {
                let rows = info
                    .row_count
                    .map_or("unknown".to_owned(), |rows| rows.to_string());
                text.push_str(&format!(
                    "{name:<width$} {:>8} {rows:>14} {:>8} {:>12}\n",
                    info.version,
                    info.cell_count,
                    bytes(info.total_bytes)
                ));
            }
            Err(error) => text.push_str(&format!("{name:<width$} {error}\n")),
        }
    }
    text
}
