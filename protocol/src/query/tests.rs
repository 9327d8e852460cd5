use super::*;

fn plan() -> QueryPlan {
    let task = TaskPlan {
        plan: vec![0, 1, 255],
        preferred: Some(NodeId::from_random([2; 16])),
        reason: "idle".into(),
        memory_bytes: 1 << 20,
        scan_bytes: 7,
    };
    let stage = |stage, inputs| StagePlan {
        stage,
        inputs,
        partitions: 4,
        is_read_whole: false,
        tasks: vec![task.clone(), task.clone()],
    };
    QueryPlan {
        query: QueryId::from_random([1; 16]),
        coordinator: NodeId::from_random([2; 16]),
        build: "apiary".into(),
        deadline_ms: 60_000,
        options: BTreeMap::from([("datafusion.x".into(), "1".into())]),
        stages: vec![stage(1, vec![]), stage(2, vec![1])],
    }
}

fn output(chunks: &[(u64, u64)]) -> Output {
    let chunk = |(offset, length): &(u64, u64)| Chunk {
        offset: *offset,
        length: *length,
        crc32: 0,
    };
    Output {
        query: QueryId::from_random([1; 16]),
        key: TaskKey { stage: 1, task: 0 },
        node: NodeId::from_random([2; 16]),
        bee: "bee-0".into(),
        attempt: 0,
        id: AttemptId::from_random([3; 16]),
        facts: TaskFacts::default(),
        outcome: Outcome::Rows {
            apart: false,
            partitions: std::iter::once(chunks.iter().map(chunk).collect()).collect(),
        },
    }
}

#[test]
fn a_plan_is_read_as_it_was_written() -> Result<(), FormatError> {
    let bytes = plan().to_bytes()?;
    assert_eq!(QueryPlan::from_bytes(&bytes)?, plan());
    assert_eq!(plan().keys().count(), 4);
    let shown = envelope::inspect(&bytes)?;
    assert_eq!(shown["body"]["stages"][0]["tasks"][0]["plan"], "0001ff");
    Ok(())
}

#[test]
fn a_plan_whose_stages_are_out_of_order_is_refused() -> Result<(), FormatError> {
    let faults: [fn(&mut QueryPlan); 5] = [
        |plan| plan.stages[0].stage = 2,
        |plan| plan.stages[0].inputs = vec![1],
        |plan| plan.stages[1].inputs = vec![0],
        |plan| plan.stages[1].inputs = vec![3],
        |plan| plan.stages[1].tasks.clear(),
    ];
    for fault in faults {
        let mut plan = plan();
        fault(&mut plan);
        let read = QueryPlan::from_bytes(&plan.to_bytes()?);
        assert!(matches!(read, Err(FormatError::Corrupt(_))));
    }
    Ok(())
}

#[test]
fn an_output_whose_chunks_overlap_or_leave_gaps_is_refused() -> Result<(), FormatError> {
    let sound = output(&[(0, 4), (4, 2)]);
    assert_eq!(Output::from_bytes(&sound.to_bytes()?)?, sound);
    assert_eq!(sound.data_bytes(), 6);
    for chunks in [
        &[(1, 4)][..],
        &[(0, 4), (3, 2)],
        &[(0, 4), (5, 1)],
        &[(0, 0)],
    ] {
        assert!(Output::from_bytes(&output(chunks).to_bytes()?).is_err());
    }
    let huge = output(&[(0, u64::MAX), (u64::MAX, 1)]);
    assert!(Output::from_bytes(&huge.to_bytes()?).is_err());
    Ok(())
}

#[test]
fn cells_that_are_out_of_order_or_do_not_make_their_sum_are_refused() -> Result<(), FormatError> {
    let of = |cells: &[(&str, i64)], bytes| {
        let add = |(path, size): &(&str, i64)| Add {
            path: (*path).into(),
            size: *size,
            partition_values: [("p".to_string(), None)].into_iter().collect(),
            stats: Some("{}".into()),
            ..Add::default()
        };
        Output {
            outcome: Outcome::Cells(Cells {
                adds: cells.iter().map(add).collect(),
                rows: 5,
                bytes,
                warnings: vec!["narrow".into()],
            }),
            ..output(&[])
        }
    };
    let sound = of(&[("a", 3), ("b", 4)], 7);
    assert_eq!(Output::from_bytes(&sound.to_bytes()?)?, sound);
    for fault in [
        of(&[("b", 3), ("a", 4)], 7),
        of(&[("a", 3), ("a", 4)], 7),
        of(&[("a", 3)], 4),
        of(&[("a", -3)], 3),
        of(&[("a", i64::MAX), ("b", i64::MAX), ("c", 2)], 0),
    ] {
        assert!(Output::from_bytes(&fault.to_bytes()?).is_err());
    }
    Ok(())
}
