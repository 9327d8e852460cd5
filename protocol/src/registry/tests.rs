use super::*;

const GOLDEN: &[u8] = include_bytes!("../../tests-data/registry-1.json");
const GOLDEN_HEAD: &[u8] = include_bytes!("../../tests-data/registry-head-1.json");

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn id(byte: u8) -> FrameId {
    FrameId::from_random([byte; 16])
}

fn frame(text: &str) -> FrameName {
    let parts: Vec<&str> = text.split('.').collect();
    FrameName::parse(parts[0], parts[1], parts[2]).expect("a good name")
}

fn name(text: &str) -> Name {
    Name::new("hive", text).expect("a good name")
}

/// A frame made in one go; its location.
fn made(registry: &Registry, text: &str, byte: u8) -> Result<(Registry, String), Refusal> {
    let plain = registry.plain_location(&frame(text))?;
    let (next, _, record) = registry.apply_reserve(&frame(text), id(byte), plain.as_deref())?;
    let live = next.apply_make_live(&frame(text), id(byte))?;
    Ok((live.unwrap_or(next), record.location))
}

fn dropped(
    registry: &Registry,
    text: &str,
    byte: u8,
    with_data: bool,
) -> Result<Registry, Refusal> {
    registry
        .apply_begin_drop(&frame(text), id(byte), with_data)?
        .apply_finish_drop(&frame(text), id(byte))
}

fn example() -> Result<Registry, Refusal> {
    let registry = Registry::initial().apply_create_hive(&name("Sales"))?;
    let registry = registry.apply_drop_box(&name("sales"), &name("default"))?;
    let registry = registry.apply_create_box(&name("sales"), &name("größe"))?;
    let (registry, _) = made(&registry, "sales.größe.Orders", 1)?;
    let (registry, _, _) = registry.apply_reserve(&frame("default.default.half"), id(2), None)?;
    let (registry, _) = registry.apply_attach(&frame("default.default.old"), id(3), "lake/old")?;
    let (registry, _) = made(&registry, "default.default.gone", 4)?;
    let registry = dropped(&registry, "default.default.gone", 4, true)?;
    let (registry, _) = made(&registry, "default.default.going", 5)?;
    let registry = registry.apply_begin_drop(&frame("default.default.going"), id(5), false)?;
    Ok(registry.succeed(41, ChangeId::from_random([9; 16])))
}

/// A sealed document without what differs from build to build.
fn content(bytes: &[u8]) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let mut value = crate::envelope::inspect(bytes)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("crc32");
        fields.remove("build");
    }
    Ok(value)
}

#[test]
fn format_1_is_read_for_ever_and_written_the_same() -> Outcome {
    assert_eq!(Registry::from_bytes(GOLDEN)?, example()?);
    assert_eq!(content(&example()?.to_bytes()?)?, content(GOLDEN)?);
    assert_eq!(example()?.to_bytes()?, example()?.to_bytes()?);
    assert_eq!(
        RegistryHead::from_bytes(GOLDEN_HEAD)?,
        RegistryHead { version: 42 }
    );
    assert_eq!(
        content(&RegistryHead { version: 42 }.to_bytes()?)?,
        content(GOLDEN_HEAD)?
    );
    Ok(())
}

#[test]
fn default_default_exists_in_every_document() -> Outcome {
    let mut bare = Registry::initial();
    bare.hives.clear();
    let read = Registry::from_bytes(&bare.to_bytes()?)?;
    assert!(read.frame_box(&name("default"), &name("DEFAULT")).is_ok());
    assert_eq!(
        read.apply_drop_hive(&name("default")),
        Err(Refusal::Permanent("hive default".into()))
    );
    assert!(matches!(
        read.apply_drop_box(&name("default"), &name("default")),
        Err(Refusal::Permanent(_))
    ));
    Ok(())
}

#[test]
fn a_hive_comes_with_a_default_box_and_goes_with_it_when_it_is_empty() -> Outcome {
    let hive = name("sales");
    let registry = Registry::initial().apply_create_hive(&hive)?;
    let (filled, _) = made(&registry, "sales.default.t", 1)?;
    assert!(matches!(
        filled.apply_drop_hive(&hive),
        Err(Refusal::NotEmpty { .. })
    ));
    assert!(registry.apply_drop_hive(&hive)?.hive(&hive).is_err());
    Ok(())
}

#[test]
fn names_are_unique_ignoring_case_on_each_level() -> Outcome {
    let registry = example()?;
    assert_eq!(
        registry.apply_create_hive(&name("SALES")),
        Err(Refusal::HiveExists(name("Sales")))
    );
    assert!(matches!(
        registry.apply_create_box(&name("sales"), &name("GRÖßE")),
        Err(Refusal::BoxExists(..))
    ));
    assert!(matches!(
        made(&registry, "SALES.Größe.ORDERS", 8),
        Err(Refusal::FrameExists(_))
    ));
    assert!(matches!(
        made(&registry, "x.y.z", 8),
        Err(Refusal::HiveMissing(_))
    ));
    assert!(matches!(
        made(&registry, "sales.y.z", 8),
        Err(Refusal::BoxMissing(..))
    ));
    Ok(())
}

#[test]
fn a_location_takes_the_registered_spelling_and_is_never_used_again() -> Outcome {
    let registry = example()?;
    let (spelled, record) = registry.frame(&frame("SALES.GRÖßE.orders"))?;
    assert_eq!(spelled.to_string(), "Sales.größe.Orders");
    assert_eq!(record.location, "Sales/größe/Orders");
    let gone = dropped(&registry, "sales.größe.orders", 1, false)?;
    let (again, location) = made(&gone, "sales.größe.ORDERS", 0xab)?;
    assert_eq!(location, "Sales/größe/ORDERS.abababab");
    let gone = dropped(&again, "sales.größe.orders", 0xab, false)?;
    let (_, location) = made(&gone, "sales.größe.orders", 0xcd)?;
    assert_eq!(location, "Sales/größe/orders.cdcdcdcd");
    Ok(())
}

#[test]
fn the_location_of_an_aborted_reservation_stays_used() -> Outcome {
    let registry = Registry::initial();
    let plain = registry.plain_location(&frame("default.default.t"))?;
    assert_eq!(plain.as_deref(), Some("default/default/t"));
    let (registry, _, _) =
        registry.apply_reserve(&frame("default.default.t"), id(1), plain.as_deref())?;
    let aborted = registry.apply_abort(&frame("default.default.t"), id(1))?;
    assert_eq!(aborted.plain_location(&frame("default.default.T"))?, None);
    assert!(matches!(
        aborted.apply_make_live(&frame("default.default.t"), id(1)),
        Err(Refusal::FrameMissing(_))
    ));
    Ok(())
}

#[test]
fn a_transition_of_a_frame_that_was_replaced_is_refused() -> Outcome {
    let (registry, _) = made(&Registry::initial(), "default.default.t", 1)?;
    let registry = dropped(&registry, "default.default.t", 1, false)?;
    let (registry, _) = made(&registry, "default.default.t", 2)?;
    let t = frame("default.default.t");
    assert_eq!(
        registry.apply_begin_drop(&t, id(1), true),
        Err(Refusal::FrameReplaced(t.clone()))
    );
    assert_eq!(
        registry.apply_make_live(&t, id(1)),
        Err(Refusal::FrameReplaced(t.clone()))
    );
    assert!(matches!(
        registry.apply_abort(&t, id(2)),
        Err(Refusal::WrongState { .. })
    ));
    assert!(matches!(
        registry.apply_finish_drop(&t, id(2)),
        Err(Refusal::WrongState { .. })
    ));
    assert_eq!(registry.apply_make_live(&t, id(2)), Ok(None));
    Ok(())
}

#[test]
fn only_empty_boxes_and_hives_are_dropped() -> Outcome {
    let registry = example()?;
    assert!(matches!(
        registry.apply_drop_hive(&name("sales")),
        Err(Refusal::NotEmpty { .. })
    ));
    assert!(matches!(
        registry.apply_drop_box(&name("sales"), &name("größe")),
        Err(Refusal::NotEmpty { .. })
    ));
    let registry = dropped(&registry, "sales.größe.orders", 1, false)?;
    let registry = registry
        .apply_drop_box(&name("SALES"), &name("größe"))?
        .apply_drop_hive(&name("sales"))?;
    assert!(registry.hive(&name("sales")).is_err());
    Ok(())
}

#[test]
fn an_attached_location_may_not_overlap_any_other() -> Outcome {
    let registry = example()?;
    let t = frame("default.default.t");
    for location in [
        "lake/old",
        "LAKE/OLD",
        "lake",
        "lake/old/inner",
        "Sales",
        "default/default/gone",
        "default",
    ] {
        assert!(
            registry.apply_attach(&t, id(7), location).is_err(),
            "{location}"
        );
    }
    for location in ["_swarm/x", "../x", "a/_delta_log", ""] {
        assert!(
            matches!(
                registry.apply_attach(&t, id(7), location),
                Err(Refusal::Location(_))
            ),
            "{location}"
        );
    }
    // Detached tables may come back, but nothing is made where they are.
    let detached = registry.apply_finish_drop(&frame("default.default.old"), id(3))?;
    assert!(
        detached
            .purging
            .keys()
            .all(|location| location != "lake/old")
    );
    assert!(detached.apply_attach(&t, id(7), "lake/old").is_ok());
    let (inner, _) = registry.apply_attach(&t, id(7), "default/default/plain")?;
    let inner = inner.apply_finish_drop(&t, id(7))?;
    assert_eq!(inner.plain_location(&frame("default.default.plain"))?, None);
    Ok(())
}

#[test]
fn a_purge_is_remembered_until_it_is_done() -> Outcome {
    let registry = example()?;
    assert_eq!(registry.purging.get("default/default/gone"), Some(&id(4)));
    let done = registry
        .apply_purged("default/default/gone")
        .expect("was purging");
    assert_eq!(done.apply_purged("default/default/gone"), None);
    assert_eq!(done.plain_location(&frame("default.default.gone"))?, None);
    Ok(())
}

#[test]
fn documents_that_break_an_invariant_are_neither_written_nor_believed() -> Outcome {
    let good = example()?;
    let faults: [fn(&mut Registry); 4] = [
        |registry| registry.used_locations.clear(),
        |registry| {
            registry.purging.insert("LAKE/old/inner".into(), id(8));
        },
        |registry| {
            let copy = registry.frames().next().map(|(_, record)| record.clone());
            if let Some(copy) = copy {
                registry.put(&frame("default.default.copy"), Some(copy));
            }
        },
        |registry| {
            let record = FrameRecord {
                id: id(8),
                location: "../x".into(),
                state: FrameState::Live,
                attached: true,
            };
            registry.used_locations.insert("../x".into());
            registry.put(&frame("default.default.out"), Some(record));
        },
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let mut bad = good.clone();
        fault(&mut bad);
        assert!(bad.to_bytes().is_err(), "fault {index}");
        assert!(
            Registry::from_bytes(&sealed_json::seal(&bad)?).is_err(),
            "fault {index}"
        );
    }
    Ok(())
}

#[test]
fn two_spellings_of_one_name_in_a_document_are_refused() -> Outcome {
    let bytes = example()?.to_bytes()?;
    let text = String::from_utf8(bytes)?;
    let doubled = text.replace(
        "\"hives\": {",
        "\"hives\": {\n    \"SALES\": { \"boxes\": {} },",
    );
    let body = doubled
        .split_once(",\n")
        .map(|(_, rest)| rest)
        .unwrap_or_default();
    let sealed = format!(
        "{{\n  \"crc32\": \"{:08x}\",\n{body}",
        crc32fast::hash(body.as_bytes())
    );
    let error = Registry::from_bytes(sealed.as_bytes()).expect_err("a doubled name");
    assert!(error.to_string().contains("twice"), "{error}");
    Ok(())
}
