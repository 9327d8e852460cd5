//! `demo`: a database with example data, and a look around in it.
//!
//! Can be run again: what is there already is kept, and the same answers come. With another scale,
//! the rows of that scale take their place.

use crate::args::{Demo, Format};
use crate::failure::Result;
use crate::run::{Runner, written};
use crate::signals::Interrupts;
use crate::tpch::{self, TABLES, Table};
use apiary::{Apiary, BoxNs, CancellationToken, Frame, Session};

pub const DEFAULT_STORAGE: &str = "./apiary-demo";
const HIVE: &str = "demo";
const BOX: &str = "tpch";
/// The frame that a question makes from the loaded ones.
const DERIVED: &str = "shipped_late";

/// What is asked, and why.
const QUESTIONS: [(&str, &str); 3] = [
    (
        "Which customers spent most?",
        "SELECT c_name, n_name AS nation, sum(o_totalprice) AS spent\n\
         FROM customer JOIN orders ON c_custkey = o_custkey JOIN nation ON c_nationkey = n_nationkey\n\
         GROUP BY c_name, n_name ORDER BY spent DESC LIMIT 5",
    ),
    (
        "A table made by a query is one commit, like every write:",
        "CREATE TABLE IF NOT EXISTS shipped_late AS\n\
         SELECT l_orderkey, l_shipmode, l_receiptdate FROM lineitem WHERE l_receiptdate > l_commitdate",
    ),
    (
        "What share of each way of shipping comes late?",
        "SELECT l_shipmode AS mode, count(late.l_orderkey) AS late, all_lines AS lines\n\
         FROM shipped_late late JOIN (SELECT l_shipmode AS way, count(*) AS all_lines FROM lineitem\n\
         GROUP BY 1) ON l_shipmode = way GROUP BY 1, 3 ORDER BY 1",
    ),
];

pub async fn demo(
    options: &Demo,
    storage: &str,
    apiary: &Apiary,
    interrupts: &Interrupts,
) -> Result<()> {
    println!("Data lies in {storage}, as open Delta Lake tables.\n");
    let box_ns = interrupts.or_cancelled(make_box(apiary)).await?;
    for table in TABLES {
        let prepare = prepare(&box_ns, table, options.scale);
        let Some(frame) = interrupts.or_cancelled(prepare).await? else {
            continue;
        };
        // Says itself what became of it: a write that is committing already may land.
        let cancel = CancellationToken::new();
        let refill = tpch::refill(&frame, table, options.scale, &cancel);
        let report = interrupts.told(&cancel, refill).await?;
        println!("{}: {}", frame.name(), written(&report));
    }
    let session = run(
        apiary,
        interrupts,
        &format!("USE HIVE {HIVE}; USE BOX {BOX}"),
        None,
    )
    .await?;
    for (question, text) in QUESTIONS {
        println!("\n{question}\n\n{text};\n");
        run(apiary, interrupts, text, Some(&session)).await?;
    }
    println!("\nThe same with TPC-H's query 5, six tables joined:\n");
    run(
        apiary,
        interrupts,
        &tpch::query(5, options.scale),
        Some(&session),
    )
    .await?;
    println!(
        "\nWhat next:\n  \
         apiary-node --storage {storage} shell                       type SQL; start with USE HIVE {HIVE};\n  \
         apiary-node --storage {storage} status                      see all frames\n  \
         apiary-node --storage {storage} load mine FILE.csv          your own data\n  \
         apiary-node --storage {storage} inspect _registry/00000000000000000001.json"
    );
    Ok(())
}

async fn make_box(apiary: &Apiary) -> Result<BoxNs> {
    Ok(apiary.create_hive(HIVE).await?.create_box(BOX).await?)
}

/// The frame of a table, unless all rows are there already.
async fn prepare(box_ns: &BoxNs, table: Table, scale: f64) -> Result<Option<Frame>> {
    let frame = box_ns
        .create_frame(table.name(), table.schema(), &[])
        .await?;
    if tpch::is_filled(&frame, table, scale).await? {
        println!("{}: all rows are there already", frame.name());
        return Ok(None);
    }
    // Before the rows that it was made from go, so that a run which ends in between leaves no table
    // that the next one would take for a result of its own.
    box_ns.drop_frame(DERIVED, true).await?;
    Ok(Some(frame))
}

async fn run(
    apiary: &Apiary,
    interrupts: &Interrupts,
    text: &str,
    session: Option<&Session>,
) -> Result<Session> {
    let runner = Runner {
        apiary,
        interrupts,
        format: Format::Table,
        reports: true,
    };
    let mut session = match session {
        Some(session) => session.clone(),
        None => Session::new()?,
    };
    for statement in apiary::parse(text)? {
        let is_quiet = matches!(
            statement,
            apiary::Statement::UseHive(_) | apiary::Statement::UseBox(_)
        );
        if is_quiet {
            let answer = apiary
                .execute(statement, &session, Default::default())
                .await?;
            session = answer.session().clone();
            answer.collect().await?;
            continue;
        }
        let outcome = runner.run(statement, &session).await?;
        println!("in {:.0} ms", outcome.duration.as_secs_f64() * 1e3);
        session = outcome.session;
    }
    Ok(session)
}
