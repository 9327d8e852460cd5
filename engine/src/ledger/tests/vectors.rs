//! Deletion vectors from a store.

use super::*;
use crate::ledger::read_deletion_vector;
use apiary_protocol::delta::{DeletionVector, crc32};
use roaring::RoaringTreemap;

const FILE: &str = "hive/box/frame/ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin";

/// A file with one vector behind `offset` bytes, and the vector that names it.
async fn stored(ledger: &Ledger, rows: &RoaringTreemap) -> (DeletionVector, Vec<u8>) {
    let mut bitmap = 1_681_511_377_u32.to_le_bytes().to_vec();
    rows.serialize_into(&mut bitmap).unwrap();
    let mut file = vec![1, 9, 9, 9, 9];
    file.extend((bitmap.len() as u32).to_be_bytes());
    file.extend(&bitmap);
    file.extend(crc32(&bitmap).to_be_bytes());
    put(ledger, FILE, file.clone()).await;
    let vector = DeletionVector {
        storage_type: "u".into(),
        path_or_inline_dv: "ab^-aqEH.-t@S}K{vb[*k^".into(),
        offset: Some(5),
        size_in_bytes: bitmap.len() as i32,
        cardinality: rows.len() as i64,
    };
    (vector, file)
}

#[tokio::test]
async fn a_vector_in_a_file_is_read_and_checked() {
    let ledger = ledger();
    let rows: RoaringTreemap = (0..5000)
        .step_by(3)
        .chain([1 << 33, u64::from(u32::MAX) + 7])
        .collect();
    let (vector, file) = stored(&ledger, &rows).await;
    assert_eq!(
        read_deletion_vector(&ledger.meadow, LOCATION, &vector)
            .await
            .unwrap(),
        rows
    );
    let refused = |vector: DeletionVector| {
        let ledger = ledger.clone();
        async move {
            let result = read_deletion_vector(&ledger.meadow, LOCATION, &vector).await;
            assert!(result.is_err(), "{vector:?}");
        }
    };
    refused(DeletionVector {
        cardinality: vector.cardinality + 1,
        ..vector.clone()
    })
    .await;
    refused(DeletionVector {
        size_in_bytes: vector.size_in_bytes - 1,
        ..vector.clone()
    })
    .await;
    refused(DeletionVector {
        size_in_bytes: -1,
        ..vector.clone()
    })
    .await;
    refused(DeletionVector {
        offset: Some(6),
        ..vector.clone()
    })
    .await;
    refused(DeletionVector {
        storage_type: "z".into(),
        ..vector.clone()
    })
    .await;
    for at in (0..file.len()).filter(|at| !(1..5).contains(at)) {
        let mut changed = file.clone();
        changed[at] ^= 1;
        put(&ledger, FILE, changed).await;
        refused(vector.clone()).await;
    }
    ledger.meadow.delete(FILE).await.unwrap();
    let error = read_deletion_vector(&ledger.meadow, LOCATION, &vector)
        .await
        .expect_err("missing");
    assert_eq!(corrupt_key(&error), Some(FILE));
}

#[tokio::test]
async fn an_absolute_vector_is_read_only_inside_the_location() {
    let ledger = ledger();
    let (vector, _) = stored(&ledger, &[1, 2].into_iter().collect()).await;
    let absolute = |path: &str| DeletionVector {
        storage_type: "p".into(),
        path_or_inline_dv: path.into(),
        ..vector.clone()
    };
    let inside = absolute(&format!("memory://test/{FILE}"));
    assert_eq!(
        read_deletion_vector(&ledger.meadow, LOCATION, &inside)
            .await
            .unwrap()
            .len(),
        2
    );
    for path in [
        "/etc/passwd",
        "s3://other/x.bin",
        "memory://test/hive/box/frame2/x.bin",
        "memory://test/hive/box/frame/../x.bin",
    ] {
        let result = read_deletion_vector(&ledger.meadow, LOCATION, &absolute(path)).await;
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{path}");
    }
}

#[tokio::test]
async fn rows_of_a_cell_with_a_vector_are_counted_without_the_deleted_ones() {
    let ledger = ledger();
    let base = create(&ledger).await;
    let one = commit_one(&ledger, &base, append(&ledger, &["a", "b"]))
        .await
        .unwrap()
        .snapshot;
    let (vector, _) = stored(&ledger, &[1, 2].into_iter().collect()).await;
    let with_vector = Add {
        deletion_vector: Some(vector.clone()),
        ..add("a", 10)
    };
    let intent = Intent {
        actions: vec![remove(&one, "a", true), Action::Add(with_vector)],
        ..append(&ledger, &[])
    };
    let two = commit_one(&ledger, &one, intent).await.unwrap().snapshot;
    assert_eq!((two.cell_count(), two.row_count()), (2, Some(18)));
    assert!(two.cell("a", None).is_none() && two.cell("a", Some(&vector)).is_some());
    ledger.checkpoint(&two).await.unwrap();
    crate::ledger::invariants::check_same_content(&ledger.load().await.unwrap(), &two).unwrap();
}
