//! CHAMBER-1: what a task's operators reserve never exceeds its chamber's budget, as its output tells.

use apiary_protocol::query::Output;

/// Magic and length before the envelope of an output.
const HEADER_BYTES: usize = 12;

/// Gives the output, when it is one.
pub fn check(key: &str, body: &[u8]) -> Result<Option<Output>, String> {
    if !(key.starts_with("_swarm/queries/") && key.contains("/outputs/")) {
        return Ok(None);
    }
    let unreadable = |reason: String| format!("QUERY-2: {key} is written unreadable: {reason}");
    let (header, rest) = body
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| unreadable("it has no header".into()))?;
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let envelope = rest.get(..length);
    let envelope = envelope.ok_or_else(|| unreadable("its index is cut".into()))?;
    let output = Output::from_bytes(envelope).map_err(|error| unreadable(error.to_string()))?;
    let (peak, budget) = (output.facts.peak_bytes, output.facts.budget_bytes);
    match peak > budget {
        true => Err(format!(
            "CHAMBER-1: {key} reserved {peak} bytes of a budget of {budget}"
        )),
        false => Ok(Some(output)),
    }
}
