use super::{Act, Image, Name, When, TABLE};

impl When {
    fn shown(self) -> &'static str {
        match self {
            When::Always => "always",
            When::Rank => "in a rank",
            When::Pmix => "the launcher offers PMIx",
            When::SocketAlone => "the launcher offers a PMI socket and no PMIx",
            When::StaleSocket => "the launcher offers no PMI socket, but `PMI_FD` is set",
            When::Prrte => "the launcher is PRRTE",
        }
    }
}

impl Image {
    fn shown(self) -> &'static str {
        match self {
            Image::Any => "",
            Image::OpenMpi4 => "; the image may have Open MPI 4",
            Image::OpenMpi5 => "; the image may have Open MPI 5",
            Image::Mpich => "; the image may have MPICH's family",
        }
    }
}

#[test]
fn the_document_has_every_row_of_the_table_of_hygiene() {
    let mut table = "| variable | what | when | why |\n|---|---|---|---|\n".to_owned();
    for row in TABLE {
        let name = match row.name {
            Name::Is(name) => name.to_owned(),
            Name::Begins(beginning) => format!("{beginning}…"),
        };
        let act = match row.act {
            Act::Drop => "dropped".to_owned(),
            Act::DropIf(beginning) => format!("dropped if it begins with `{beginning}`"),
            Act::Set(value, None) => format!("set to `{value}`"),
            Act::Set(value, Some(offers)) => {
                format!("set to `{value}` if `{offers}`, where there is one, lists it")
            }
            Act::Keep => "kept".to_owned(),
        };
        let (when, image) = (row.when.shown(), row.image.shown());
        table += &format!("| `{name}` | {act} | {when}{image} | {} |\n", row.why);
    }
    crate::document::assert_section("hygiene", &table);
}
