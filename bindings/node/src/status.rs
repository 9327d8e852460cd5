//! `status`: the node's facts, the other nodes, and what lies in the storage.

use crate::args::Status;
use crate::failure::Result;
use crate::progress::bytes;
use apiary::{Apiary, BeatFacts, Frame, FrameInfo, NodeStatus, SwarmNode};
use futures::StreamExt;
use serde_json::{Value, json};
use std::io::Write;

/// Frames whose ledgers are read at once.
const FRAMES_AT_ONCE: usize = 8;
/// Claims of a node that are written out in the table; `--json` has all.
const CLAIMS_SHOWN: usize = 3;

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
    let nodes = apiary.swarm().await?;
    let node = apiary.status().await?;
    let mut out = std::io::stdout().lock();
    if options.json {
        let value = as_json(&node, &nodes, hives.len(), box_count, &lines);
        writeln!(out, "{value:#}")?;
    } else {
        let text = as_text(&node, &nodes, hives.len(), box_count, &lines);
        write!(out, "{text}")?;
    }
    Ok(())
}

async fn line(frame: Frame) -> Line {
    Line {
        name: frame.name().to_string(),
        info: frame.info().await,
    }
}

fn as_json(
    node: &NodeStatus,
    nodes: &[SwarmNode],
    hives: usize,
    boxes: usize,
    lines: &[Line],
) -> Value {
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
        "nodes": nodes,
        "storage": { "hives": hives, "boxes": boxes, "frames": frames },
    })
}

fn as_text(
    node: &NodeStatus,
    nodes: &[SwarmNode],
    hives: usize,
    boxes: usize,
    lines: &[Line],
) -> String {
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
        "hives     {hives}\nboxes     {boxes}\nframes    {}\nothers    {}\n",
        lines.len(),
        nodes.len()
    ));
    if let Some(cache) = &node.cache {
        text.push_str(&format!(
            "cache     {} of {} in {}\n",
            bytes(cache.used_bytes),
            bytes(cache.limit_bytes),
            cache.directory.display()
        ));
    }
    text + &swarm_table(nodes) + &frame_table(lines)
}

/// The other nodes, one a line.
fn swarm_table(nodes: &[SwarmNode]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let name_of = |node: &SwarmNode| node.beat.as_ref().map(|beat| beat.name.clone());
    let named = nodes.iter().filter_map(name_of);
    let width = named.map(|name| name.chars().count()).max().unwrap_or(0);
    let width = width.max(4);
    let mut text = format!(
        "\n{:<8} {:<width$} {:<7} {:>7} {:>7} {:>5} {:>6} {:>10}  {}\n",
        "node", "name", "state", "changed", "idle", "load", "memory", "cached", "build"
    );
    for node in nodes {
        let (id, state) = (short(&node.node_id), word(node));
        let changed = format!("{} s", node.seconds_since_change);
        let Some(beat) = &node.beat else {
            let what = "its heartbeat cannot be read";
            let empty = "";
            text.push_str(&format!(
                "{id:<8} {empty:<width$} {state:<7} {changed:>7}  {what}\n"
            ));
            continue;
        };
        let idle = format!("{} of {}", beat.idle_bees, beat.bees);
        text.push_str(&format!(
            "{id:<8} {:<width$} {state:<7} {changed:>7} {idle:>7} {:>5.2} {:>5.0}% {:>10}  {}\n",
            beat.name,
            beat.temperature,
            beat.memory_pressure * 100.0,
            bytes(beat.cached_bytes),
            beat.build
        ));
        text.push_str(&claims(beat));
    }
    text
}

fn word(node: &SwarmNode) -> String {
    let state = json!(node.state);
    state.as_str().unwrap_or_default().to_owned()
}

fn short(id: &str) -> &str {
    id.split('-').next().unwrap_or(id)
}

/// What a node runs for others, below its line.
fn claims(beat: &BeatFacts) -> String {
    let mut text = String::new();
    for claim in beat.claims.iter().take(CLAIMS_SHOWN) {
        let (query, stage, task) = (short(&claim.query), claim.stage, claim.task);
        text.push_str(&format!(
            "  runs task {task} of stage {stage} of query {query}\n"
        ));
    }
    let more = beat.claims.len().saturating_sub(CLAIMS_SHOWN);
    if more > 0 {
        text.push_str(&format!("  and {more} tasks more\n"));
    }
    text
}

fn frame_table(lines: &[Line]) -> String {
    let mut text = String::new();
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
