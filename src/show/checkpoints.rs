//! The table of `migrate checkpoints`.

use std::time::SystemTime;

use comfy_table::Cell;
use migrate_proto::api::CheckpointView;
use migrate_proto::cluster::CheckpointId;

use super::style::Style;
use super::{harmless, table, time, units};

/// As much of an identity as is needed to name it.
pub(crate) fn short(id: &CheckpointId) -> String {
    id.to_string().chars().take(12).collect()
}

/// One line each.
pub(crate) fn table(style: Style, views: &[CheckpointView], now: SystemTime) -> String {
    let headings = ["ID", "WORKLOAD", "TAKEN", "KIND", "EPOCH", "HOLDS", "STORED", "NODES", "VERIFIED", "NOTE"];
    let mut table = table::table(style, &headings);
    let ago = |at: &str| time::age(at, now).map_or_else(|| harmless(at), |age| units::age(age) + " ago");
    for view in views {
        let mut nodes: Vec<&str> = view.nodes.iter().map(|node| node.as_str()).collect();
        // Which one is in the JSON.
        nodes.extend((!view.depots.is_empty()).then_some("depot"));
        let damaged = view.damaged.as_deref().map(|what| format!("damaged: {}", harmless(what)));
        let tested = view.tested.as_ref().map(|test| match &test.failed {
            None => format!("recovery tested {}, took {}", ago(&test.at), units::milliseconds(test.took_ms as f64)),
            Some(why) => format!("recovery test failed {}: {}", ago(&test.at), harmless(why)),
        });
        let ill = (!view.healthy).then(|| "the workload was not well".to_owned());
        table.add_row([
            Cell::new(short(&view.id)),
            Cell::new(&view.workload),
            Cell::new(ago(&view.at)),
            Cell::new(table::word(&view.kind)),
            Cell::new(view.epoch),
            Cell::new(units::size(view.bytes)),
            Cell::new(units::size(view.bytes_stored)),
            Cell::new(nodes.join(",")),
            Cell::new(view.verified.as_deref().map_or_else(|| "-".to_owned(), ago)),
            Cell::new([damaged, tested, ill].into_iter().flatten().collect::<Vec<_>>().join("; ")),
        ]);
    }
    table::text(table)
}
