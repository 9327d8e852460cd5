use super::*;
use apiary::arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use apiary::arrow::ipc::writer::{FileWriter, StreamWriter};
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use std::io::Write;
use tempfile::TempDir;

fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    File::create(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    path
}

fn rows(input: Input) -> Result<Vec<RecordBatch>, String> {
    let stream = input.stream(Arc::default()).unwrap();
    let batches: Vec<_> = futures::executor::block_on(stream.collect());
    batches
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn examine(files: &[PathBuf]) -> Result<Input> {
    Input::examine(files, None, TextOptions::default(), None)
}

fn example() -> RecordBatch {
    RecordBatch::try_from_iter([
        (
            "id",
            Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef,
        ),
        (
            "name",
            Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef,
        ),
    ])
    .unwrap()
}

#[test]
fn parquet_and_both_kinds_of_arrow_files_come_back_as_they_were_written() {
    let directory = TempDir::new().unwrap();
    let batch = example();
    let create = |name: &str| File::create(directory.path().join(name)).unwrap();
    let mut parquet = ArrowWriter::try_new(create("a.parquet"), batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    parquet.close().unwrap();
    let mut file = FileWriter::try_new(create("b.arrow"), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    file.finish().unwrap();
    let mut stream = StreamWriter::try_new(create("c.arrows"), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    stream.finish().unwrap();
    for name in ["a.parquet", "b.arrow", "c.arrows"] {
        let input = examine(&[directory.path().join(name)]).unwrap();
        assert_eq!(rows(input).unwrap(), std::slice::from_ref(&batch), "{name}");
    }
}

#[test]
fn csv_types_are_guessed_over_all_files_and_columns_go_by_name() {
    let directory = TempDir::new().unwrap();
    let first = write(&directory, "a.csv", "id,value,empty\n1,2,\n");
    let second = write(&directory, "b.csv", "value,id,empty\n2.5,2,\n");
    let input = examine(&[first, second]).unwrap();
    let types: Vec<_> = input
        .schema
        .fields()
        .iter()
        .map(|field| field.data_type().clone())
        .collect();
    assert_eq!(types, [DataType::Int64, DataType::Float64, DataType::Utf8]);
    let batches = rows(input).unwrap();
    let values = batches[1]
        .column(1)
        .as_any()
        .downcast_ref::<Float64Array>()
        .unwrap();
    assert_eq!(values.value(0), 2.5);
}

#[test]
fn text_files_are_read_as_the_types_of_the_frame() {
    let directory = TempDir::new().unwrap();
    let file = write(&directory, "a.csv", "CODE,other\n007,1\n");
    let frame = Arc::new(Schema::new(vec![Field::new(
        "code",
        DataType::Utf8View,
        true,
    )]));
    let input = Input::examine(&[file], None, TextOptions::default(), Some(&frame)).unwrap();
    assert_eq!(input.schema.field(0).data_type(), &DataType::Utf8View);
    assert_eq!(rows(input).unwrap()[0].num_rows(), 1);
}

#[test]
fn a_delimiter_and_a_text_for_null_can_be_given() {
    let directory = TempDir::new().unwrap();
    let file = write(&directory, "a.csv", "a;b\n1;NA\n;2\n");
    let text = TextOptions {
        delimiter: Some(b';'),
        null: Some("NA".into()),
        infer_rows: 0,
    };
    let input = Input::examine(&[file], None, text, None).unwrap();
    let batch = &rows(input).unwrap()[0];
    assert_eq!(batch.column(0).null_count(), 1);
    assert_eq!(
        batch
            .column(1)
            .as_any()
            .downcast_ref::<Int64Array>()
            .unwrap()
            .value(1),
        2
    );
}

#[test]
fn json_lines_become_rows_and_a_broken_line_names_the_file() {
    let directory = TempDir::new().unwrap();
    let good = write(
        &directory,
        "a.jsonl",
        "{\"id\":1,\"tags\":[\"x\"]}\n{\"id\":2}\n",
    );
    let batches = rows(examine(&[good]).unwrap()).unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    let bad = write(&directory, "b.jsonl", "{\"id\":1}\n{\"id\":\n");
    let error = examine(&[bad]).unwrap_err();
    assert!(error.to_string().contains("b.jsonl"), "{error}");
}

#[test]
fn a_value_that_does_not_fit_the_guess_fails_with_the_files_name() {
    let directory = TempDir::new().unwrap();
    let file = write(&directory, "a.csv", "id\n1\n2\nthree\n");
    let text = TextOptions {
        infer_rows: 2,
        ..TextOptions::default()
    };
    let input = Input::examine(&[file], None, text, None).unwrap();
    let error = rows(input).unwrap_err();
    assert!(
        error.contains("a.csv") && error.contains("three"),
        "{error}"
    );
}

#[test]
fn damaged_missing_and_unknown_files_are_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let damaged = [
        write(&directory, "a.parquet", "PAR1 no footer"),
        write(&directory, "b.arrow", "ARROW1 nothing"),
        write(&directory, "c.arrow", ""),
        write(&directory, "d.parquet", ""),
        write(&directory, "e.csv", ""),
        write(&directory, "f.csv", "a,A\n1,2\n"),
        write(&directory, "g.dat", "?"),
        write(&directory, "h.json", ""),
        directory.path().join("missing.csv"),
        directory.path().to_path_buf(),
    ];
    for path in damaged {
        let failure = examine(std::slice::from_ref(&path)).unwrap_err();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(failure.to_string().contains(&name), "{failure}");
    }
}

#[test]
fn files_with_other_columns_than_the_first_are_refused() {
    let directory = TempDir::new().unwrap();
    let first = write(&directory, "a.csv", "a,b\n1,2\n");
    let second = write(&directory, "b.csv", "a,c\n1,2\n");
    let error = examine(&[first.clone(), second]).unwrap_err().to_string();
    assert!(
        error.contains("b.csv") && error.contains("\"c\""),
        "{error}"
    );
    let third = write(&directory, "c.csv", "a\n1\n");
    let error = examine(&[first, third]).unwrap_err().to_string();
    assert!(
        error.contains("c.csv") && error.contains("\"b\""),
        "{error}"
    );
}
