use super::{Offer, Speech, Way, TABLE};
use crate::seat::AppInterface;

#[test]
fn the_document_has_every_row_of_the_table_of_meetings() {
    let mut table =
        "| launcher offers | library speaks | they meet | why |\n|---|---|---|---|\n".to_owned();
    for row in TABLE {
        let offer = match row.offer {
            Offer::Pmix => "PMIx",
            Offer::Pmi1 => "PMI-1",
            Offer::Pmi2 => "PMI-2",
            Offer::SlurmAlone => "Slurm alone",
            Offer::Cray => "Cray",
        };
        let speech = match row.speech {
            Speech::Pmix => "PMIx",
            Speech::Wire => "the PMI-1 wire",
            Speech::LibPmi => "libpmi",
            Speech::LibPmi2 => "libpmi2",
        };
        let spoken = |app| match app {
            AppInterface::Pmi1 => "PMI-1",
            AppInterface::Pmi2 => "PMI-2",
            AppInterface::Pmix => "PMIx",
        };
        let way = match row.way {
            Way::Pass => "directly".to_owned(),
            Way::Rank(app) => format!("bridge, form `rank`, {}", spoken(app)),
            Way::Node(app) => format!("bridge, form `node`, {}", spoken(app)),
            Way::Refuse => "not at all".to_owned(),
        };
        table += &format!("| {offer} | {speech} | {way} | {} |\n", row.why);
    }
    crate::document::assert_section("meetings", &table);
}
