//! Graphs of measures with one figure a way: a row for each, with its interval.
//!
//! Owns: what such a graph looks like. Never: decides what differs.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use plotters::style::FontTransform;

use crate::data::{Data, Measure};
use crate::figures::{figures, Figure};
use crate::plot::{below, bounds, colour, steps, Graph, Panel, Pen, Picture};
use crate::progress::brief;

/// Width of the picture, and heights of a row and of what is around them.
const WIDTH: u32 = 900;
const ROW: f64 = 30.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 66.0;

/// Pixels of a letter of the rows' names, and of the column of figures.
const LETTER: f64 = 7.8;
const FIGURES: f64 = 190.0;

/// What is drawn.
#[derive(Debug)]
struct Rows {
    title: String,
    below: String,
    x_label: String,
    rows: Vec<(String, usize, Figure)>,
}

/// The graph, where ways were measured.
pub fn graph(data: &Data, measure: Measure) -> Option<Graph> {
    let rows: Vec<_> = data
        .ways
        .iter()
        .enumerate()
        .filter_map(|(style, way)| {
            let figure = figures(data, measure, way).into_iter().next()?;
            Some((way.name.clone(), style, figure))
        })
        .collect();
    let rounds = rows.iter().map(|(_, _, figure)| figure.rounds).max()?;
    let names: Vec<&str> = rows.iter().map(|(name, ..)| name.as_str()).collect();
    let alternative = format!("{}: {}", measure.title(), names.join(", "));
    let rows = Rows {
        title: measure.title().to_owned(),
        below: below(data, rounds),
        x_label: format!("time, {}", measure.unit()),
        rows,
    };
    Some(Graph {
        name: measure.name().to_owned(),
        alternative,
        svg: rows.svg(),
        png: rows.png(),
    })
}

impl Picture for Rows {
    fn size(&self) -> (u32, u32) {
        let height = TOP + BOTTOM + ROW * self.rows.len() as f64;
        (WIDTH, height.ceil() as u32)
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let pen = Pen { area, scale };
        let (width, height) = (f64::from(WIDTH), f64::from(self.size().1));
        pen.heading(&self.title, &self.below, width)?;
        let letters = self.rows.iter().map(|(name, ..)| name.chars().count());
        let panel = Panel {
            left: 24.0 + LETTER * letters.max().unwrap_or(0) as f64,
            right: width - FIGURES,
            top: TOP,
            bottom: height - BOTTOM,
        };
        let (_, most) = bounds(self.rows.iter().map(|(_, _, f)| f.median.high));
        let most = most.max(f64::MIN_POSITIVE) * 1.05;
        // Rows are counted downwards.
        let plot = pen.plot(&panel, (0.0, most), (self.rows.len() as f64, 0.0));
        let grid = RGBColor(214, 214, 214).stroke_width(pen.thick(0.8));
        for (x, name) in steps(0.0, most) {
            plot.path(&[(x, 0.0), (x, self.rows.len() as f64)], grid)?;
            let place = (plot.place(x, 0.0).0, panel.bottom + 14.0);
            pen.text(&name, place, 13.5, HPos::Center, FontTransform::None)?;
        }
        for (row, (name, style, figure)) in self.rows.iter().enumerate() {
            let y = row as f64 + 0.5;
            let at = plot.place(0.0, y).1;
            pen.text(
                name,
                (panel.left - 10.0, at),
                14.0,
                HPos::Right,
                FontTransform::None,
            )?;
            let colour = colour(*style);
            plot.path(
                &[(0.0, y), (figure.median.value, y)],
                colour.mix(0.35).stroke_width(pen.thick(1.0)),
            )?;
            plot.path(
                &[(figure.median.low, y), (figure.median.high, y)],
                colour.mix(0.55).stroke_width(pen.thick(7.0)),
            )?;
            let place = plot.place(figure.median.value, y);
            pen.mark(*style, pen.pixel(place.0, place.1))?;
            let ratio = figure.ratio.map_or(String::new(), |(ratio, _)| {
                format!("  ×{:.2} ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high)
            });
            let text = format!("{}{ratio}", brief(figure.median.value));
            pen.text(
                &text,
                (panel.right + 10.0, at),
                13.0,
                HPos::Left,
                FontTransform::None,
            )?;
        }
        let frame = RGBColor(90, 90, 90).stroke_width(pen.thick(1.0));
        let end = self.rows.len() as f64;
        plot.path(
            &[(0.0, 0.0), (most, 0.0), (most, end), (0.0, end), (0.0, 0.0)],
            frame,
        )?;
        let middle = ((panel.left + panel.right) / 2.0, height - 18.0);
        pen.text(
            &self.x_label,
            middle,
            15.0,
            HPos::Center,
            FontTransform::None,
        )
    }
}
