//! Spill files in memory: DataFusion's own would go through a thread pool.
//!
//! `read_stream` reads lazily: the spill pool polls readers while the file is still being written,
//! and a snapshot of it would lose rows without a word.

use crate::trace::Trace;
use apiary_engine::host::SpillFactory;
use bytes::Bytes;
use datafusion::error::Result;
use datafusion::execution::{SpillFile, SpillWriter, TempFileFactory};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;

const READ_BYTES_MAX: usize = 128 * 1024;

/// Makes in-memory spill files; counts them in the trace's coverage.
#[derive(Clone, Debug)]
pub struct MemorySpill {
    pub node: String,
    pub trace: Trace,
}

type Content = Arc<Mutex<Vec<u8>>>;

struct MemoryFile {
    content: Content,
    spill: MemorySpill,
}

struct MemoryWriter(MemoryFile);

impl SpillFactory for MemorySpill {
    fn chamber(&self) -> Arc<dyn TempFileFactory> {
        Arc::new(self.clone())
    }
}

impl TempFileFactory for MemorySpill {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        self.trace
            .event(&self.node, format_args!("spill-file {description:?}"));
        self.trace.count("spill_files", 1);
        Ok(Arc::new(MemoryFile {
            content: Content::default(),
            spill: self.clone(),
        }))
    }
}

impl SpillFile for MemoryFile {
    fn size(&self) -> Option<u64> {
        Some(self.content.lock().len() as u64)
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        let content = self.content.clone();
        Ok(stream::unfold(0, move |at| {
            let content = content.clone();
            async move {
                let content = content.lock();
                let end = (at + READ_BYTES_MAX).min(content.len());
                (at < end).then(|| (Ok(Bytes::copy_from_slice(&content[at..end])), end))
            }
        })
        .boxed())
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        let file = MemoryFile {
            content: self.content.clone(),
            spill: self.spill.clone(),
        };
        Ok(Box::new(MemoryWriter(file)))
    }
}

impl std::io::Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.content.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl SpillWriter for MemoryWriter {
    fn finish(&mut self) -> Result<()> {
        let content = self.0.content.lock();
        let bytes = content.len();
        let crc = crate::trace::checksum([content.as_slice()]);
        self.0.spill.trace.event(
            &self.0.spill.node,
            format_args!("spilled {bytes} {crc:08x}"),
        );
        self.0.spill.trace.count("spilled_bytes", bytes as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_started_early_sees_what_is_written_later() {
        crate::process::enroll(1);
        let spill = MemorySpill {
            node: "n".into(),
            trace: Trace::discard(),
        };
        let file = spill.chamber().create_temp_file("sort").unwrap();
        let mut writer = file.open_writer().unwrap();
        writer.write_all(b"first").unwrap();
        let mut reader = file.read_stream().unwrap();
        crate::clock::SimRuntime::new().unwrap().block_on(async {
            assert_eq!(
                reader.next().await.unwrap().unwrap(),
                Bytes::from_static(b"first")
            );
            writer.write_all(b"second").unwrap();
            assert_eq!(
                reader.next().await.unwrap().unwrap(),
                Bytes::from_static(b"second")
            );
            assert!(reader.next().await.is_none());
        });
    }
}
