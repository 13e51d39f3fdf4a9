//! Graphs of a run, each as SVG and as PNG.
//!
//! Owns: what is drawn of which measure, and how: logarithmic sizes, the ratio to
//! the host below, intervals as bands, colours that the colour-blind can tell
//! apart and marks for print in grey. Never: decides what differs.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::element::{Circle, Cross, Polygon, TriangleMarker};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, FontTransform};

use crate::data::{Data, Measure};
use crate::figures::{bytes, figures, Figure};
use crate::progress::brief;
use crate::rows;

/// A graph.
#[derive(Debug)]
pub struct Graph {
    /// Of its files, without what follows the dot.
    pub name: String,
    /// What it shows, for who cannot see it.
    pub alternative: String,
    /// As SVG.
    pub svg: String,
    /// As PNG.
    pub png: Vec<u8>,
}

/// Of a graph with lines.
const SIZE: (u32, u32) = (900, 700);
/// See [`Picture`].
pub const FINER: u32 = 2;

/// Okabe and Ito's palette, 2008: to be told apart by everybody; the host is black.
const COLOURS: [RGBColor; 11] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(120, 120, 120),
    RGBColor(110, 60, 30),
    RGBColor(110, 70, 170),
    RGBColor(160, 160, 40),
];

/// All graphs that a run has figures for.
pub fn all(data: &Data) -> Vec<Graph> {
    let measures = [
        Measure::Latency,
        Measure::Bandwidth,
        Measure::Bidirectional,
        Measure::Allreduce,
        Measure::Alltoall,
        Measure::Init,
        Measure::Reach,
        Measure::Launch,
        Measure::Memory,
        Measure::Fence,
        Measure::Seat,
        Measure::Enter,
        Measure::Ring,
        Measure::Cold,
    ];
    measures
        .into_iter()
        .filter_map(|measure| match measure {
            Measure::Enter | Measure::Ring | Measure::Cold => rows::graph(data, measure),
            _ => graph(data, measure),
        })
        .collect()
}

fn graph(data: &Data, measure: Measure) -> Option<Graph> {
    let drawing = Drawing::of(data, measure)?;
    Some(Graph {
        name: measure.name().to_owned(),
        alternative: drawing.alternative(),
        svg: drawing.svg(),
        png: drawing.png(),
    })
}

/// What can be drawn at any fineness.
pub trait Picture {
    /// Of the SVG, in pixels; the PNG has [`FINER`] times as many.
    fn size(&self) -> (u32, u32);

    /// Draws it on an area that is so many times as fine as the SVG.
    ///
    /// # Errors
    /// The area cannot be drawn on.
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>;

    /// As SVG.
    fn svg(&self) -> String {
        register_font();
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, self.size()).into_drawing_area();
            // Into a String nothing fails to be written.
            let _ = self.draw(&area, 1.0);
            let _ = area.present();
        }
        text
    }

    /// As PNG.
    fn png(&self) -> Vec<u8> {
        register_font();
        let (width, height) = (self.size().0 * FINER, self.size().1 * FINER);
        let mut pixels = vec![255; (width * height * 3) as usize];
        {
            let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
            let area = backend.into_drawing_area();
            let _ = self.draw(&area, f64::from(FINER));
            let _ = area.present();
        }
        encode(&pixels, width, height)
    }
}

/// One way's line.
#[derive(Debug)]
struct Line {
    name: String,
    style: usize,
    figures: Vec<Figure>,
}

/// What is drawn.
#[derive(Debug)]
struct Drawing {
    title: String,
    below: String,
    x_label: &'static str,
    y_label: String,
    /// Whether the upper panel is logarithmic.
    logarithmic: bool,
    x_ticks: Vec<(f64, String)>,
    lines: Vec<Line>,
}

impl Drawing {
    fn of(data: &Data, measure: Measure) -> Option<Self> {
        let lines: Vec<Line> = data
            .ways
            .iter()
            .enumerate()
            .map(|(style, way)| Line {
                name: way.name.clone(),
                style,
                figures: figures(data, measure, way),
            })
            .filter(|line| !line.figures.is_empty())
            .collect();
        let mut places: Vec<f64> = lines.iter().flat_map(|l| &l.figures).map(|f| f.x).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        places.first()?;
        let every = match places.len() {
            0..=8 => 1,
            9..=15 => 2,
            _ => 4,
        };
        let x_ticks = places
            .iter()
            .step_by(every)
            .map(|&place| {
                let name = if measure.by_bytes() {
                    bytes(place)
                } else {
                    place.to_string()
                };
                (place.log2(), name)
            })
            .collect();
        let rounds = data
            .series
            .iter()
            .filter(|series| series.measure == measure)
            .map(|series| series.samples.len())
            .max()?;
        Some(Self {
            title: measure.title().to_owned(),
            below: below(data, rounds),
            x_label: if measure.by_bytes() {
                "size of a message"
            } else {
                "ranks"
            },
            y_label: format!("{}, {}", short_name(measure), measure.unit()),
            logarithmic: measure.by_bytes(),
            x_ticks,
            lines,
        })
    }

    fn alternative(&self) -> String {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        format!("{} over {}: {}", self.title, self.x_label, names.join(", "))
    }

    fn x_range(&self) -> (f64, f64) {
        let places = || {
            self.lines
                .iter()
                .flat_map(|l| &l.figures)
                .map(|f| f.x.log2())
        };
        let (low, high) = bounds(places());
        let margin = ((high - low) * 0.02).max(0.2);
        (low - margin, high + margin)
    }

    fn draw_figures<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        panel: &Panel,
        with_ticks: bool,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let scale = |y: f64| self.scaled(y);
        let all = self.lines.iter().flat_map(|line| &line.figures);
        let (low, high) = bounds(all.flat_map(|f| [f.median.low, f.median.high]).map(scale));
        let (low, high, ticks) = match self.logarithmic {
            true => {
                let margin = ((high - low) * 0.04).max(0.05);
                (
                    low - margin,
                    high + margin,
                    decades(low - margin, high + margin),
                )
            }
            false => {
                let high = if high > 0.0 { high * 1.06 } else { 1.0 };
                (0.0, high, steps(0.0, high))
            }
        };
        let plot = pen.plot(panel, self.x_range(), (low, high));
        self.draw_grid(&plot, &ticks, &self.y_label, with_ticks)?;
        for line in &self.lines {
            let of = |value: fn(&Figure) -> f64| -> Vec<(f64, f64)> {
                let points = line.figures.iter();
                points.map(|f| (f.x.log2(), scale(value(f)))).collect()
            };
            plot.line(
                line.style,
                &of(|f| f.median.value),
                &of(|f| f.median.low),
                &of(|f| f.median.high),
            )?;
        }
        self.draw_legend(&plot)
    }

    /// A figure as the upper panel counts it.
    fn scaled(&self, figure: f64) -> f64 {
        match self.logarithmic {
            true => figure.log10(),
            false => figure,
        }
    }

    fn draw_ratios<B: DrawingBackend>(
        &self,
        pen: &Pen<'_, B>,
        panel: &Panel,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let ratios = |line: &Line| -> Vec<(f64, [f64; 3])> {
            let with = line.figures.iter().filter_map(|f| Some((f.x, f.ratio?.0)));
            with.map(|(x, r)| (x.log2(), [r.value, r.low, r.high]))
                .collect()
        };
        // A single wild interval must not flatten all others.
        let values = self
            .lines
            .iter()
            .flat_map(ratios)
            .map(|(_, [value, ..])| value);
        let (low, high) = bounds(values);
        let (low, high) = (low.min(0.95), high.max(1.05));
        let margin = (high - low) * 0.25;
        let (low, high) = ((low - margin).max(0.0), high + margin);
        let plot = pen.plot(panel, self.x_range(), (low, high));
        self.draw_grid(&plot, &steps(low, high), "of the host's", true)?;
        let (left, right) = self.x_range();
        plot.path(
            &[(left, 1.0), (right, 1.0)],
            COLOURS[0].stroke_width(pen.thick(1.4)),
        )?;
        for line in &self.lines {
            let points = ratios(line);
            if points.is_empty() {
                continue;
            }
            let of = |index: usize| -> Vec<(f64, f64)> {
                let within = |value: f64| value.clamp(low, high);
                points.iter().map(|(x, r)| (*x, within(r[index]))).collect()
            };
            plot.line(line.style, &of(0), &of(1), &of(2))?;
        }
        Ok(())
    }

    fn draw_grid<B: DrawingBackend>(
        &self,
        plot: &Plot<'_, B>,
        y_ticks: &[(f64, String)],
        y_label: &str,
        with_x_ticks: bool,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let grid = RGBColor(214, 214, 214).stroke_width(plot.pen.thick(0.8));
        let panel = plot.panel;
        let ((left, right), (low, high)) = (plot.x, plot.y);
        for (y, name) in y_ticks {
            plot.path(&[(left, *y), (right, *y)], grid)?;
            let place = (panel.left - 8.0, plot.place(left, *y).1);
            plot.pen
                .text(name, place, 13.5, HPos::Right, FontTransform::None)?;
        }
        for (x, name) in &self.x_ticks {
            plot.path(&[(*x, low), (*x, high)], grid)?;
            if with_x_ticks {
                let place = (plot.place(*x, low).0, panel.bottom + 14.0);
                plot.pen
                    .text(name, place, 13.5, HPos::Center, FontTransform::None)?;
            }
        }
        let frame = [
            (left, low),
            (right, low),
            (right, high),
            (left, high),
            (left, low),
        ];
        plot.path(
            &frame,
            RGBColor(90, 90, 90).stroke_width(plot.pen.thick(1.0)),
        )?;
        let place = (20.0, (panel.top + panel.bottom) / 2.0);
        plot.pen
            .text(y_label, place, 15.0, HPos::Center, FontTransform::Rotate270)
    }

    /// In the corner that fewest points are in.
    fn draw_legend<B: DrawingBackend>(
        &self,
        plot: &Plot<'_, B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let (pen, panel) = (plot.pen, plot.panel);
        let step = 20.0;
        let longest = self
            .lines
            .iter()
            .map(|line| line.name.chars().count())
            .max();
        let width = 62.0 + 7.6 * longest.unwrap_or(0) as f64;
        let height = step * self.lines.len() as f64 + 10.0;
        let points: Vec<(f64, f64)> = self
            .lines
            .iter()
            .flat_map(|line| &line.figures)
            .map(|f| plot.place(f.x.log2(), self.scaled(f.median.value)))
            .collect();
        let (right, bottom) = (panel.right - width - 10.0, panel.bottom - height - 10.0);
        let hidden = |(left, top): (f64, f64)| {
            let within = |(x, y): &&(f64, f64)| {
                (left - 8.0..left + width + 8.0).contains(x)
                    && (top - 8.0..top + height + 8.0).contains(y)
            };
            points.iter().filter(within).count()
        };
        let (near_left, near_top) = (panel.left + 10.0, panel.top + 10.0);
        let places = [
            (near_left, near_top),
            (right, bottom),
            (right, near_top),
            (near_left, bottom),
        ];
        let (left, top) = places
            .into_iter()
            .min_by_key(|place| hidden(*place))
            .unwrap_or((near_left, near_top));
        let corners = [pen.pixel(left, top), pen.pixel(left + width, top + height)];
        pen.area
            .draw(&Rectangle::new(corners, WHITE.mix(0.85).filled()))?;
        let frame = RGBColor(180, 180, 180).stroke_width(1);
        pen.area.draw(&Rectangle::new(corners, frame))?;
        for (row, line) in self.lines.iter().enumerate() {
            let y = top + 5.0 + step * (row as f64 + 0.5);
            let colour = colour(line.style);
            let ends = vec![pen.pixel(left + 10.0, y), pen.pixel(left + 42.0, y)];
            pen.area
                .draw(&PathElement::new(ends, colour.stroke_width(pen.thick(2.0))))?;
            pen.mark(line.style, pen.pixel(left + 26.0, y))?;
            pen.text(
                &line.name,
                (left + 52.0, y),
                14.0,
                HPos::Left,
                FontTransform::None,
            )?;
        }
        Ok(())
    }
}

impl Picture for Drawing {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let pen = Pen { area, scale };
        let (width, height) = (f64::from(SIZE.0), f64::from(SIZE.1));
        pen.heading(&self.title, &self.below, width)?;
        let has_ratios = self
            .lines
            .iter()
            .any(|line| line.figures.iter().any(|f| f.ratio.is_some()));
        let bottom = height - 62.0;
        let split = if has_ratios { 0.66 } else { 1.0 };
        let upper = Panel {
            left: 84.0,
            right: width - 24.0,
            top: 66.0,
            bottom: 66.0 + (bottom - 66.0) * split - if has_ratios { 12.0 } else { 0.0 },
        };
        self.draw_figures(&pen, &upper, !has_ratios)?;
        if has_ratios {
            let lower = Panel {
                top: upper.bottom + 24.0,
                bottom,
                ..upper
            };
            self.draw_ratios(&pen, &lower)?;
        }
        pen.text(
            self.x_label,
            (width / 2.0, height - 16.0),
            15.0,
            HPos::Center,
            FontTransform::None,
        )
    }
}

/// What a graph says of where its figures come from.
pub fn below(data: &Data, rounds: usize) -> String {
    // The numbers of a kernel's release; what builders add says nothing here.
    let kernel = data.machine.kernel.split('-').next().unwrap_or_default();
    format!(
        "{}, Linux {kernel}; {}; medians of {rounds} rounds, bands hold the true one in 95 of 100 cases",
        data.machine.processor, data.launcher.version
    )
}

fn short_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Latency => "latency",
        Measure::Bandwidth => "bandwidth",
        Measure::Bidirectional => "both ways at once",
        Measure::Init | Measure::InitCall => "time",
        Measure::Memory => "proportional set size",
        _ => "time",
    }
}

/// A part of the picture, in pixels of the SVG.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    /// Its left edge.
    pub left: f64,
    /// Its right edge.
    pub right: f64,
    /// Its upper edge.
    pub top: f64,
    /// Its lower edge.
    pub bottom: f64,
}

/// Draws in pixels of the SVG on areas of any fineness.
pub struct Pen<'a, B: DrawingBackend> {
    /// What is drawn on.
    pub area: &'a DrawingArea<B, Shift>,
    /// How many times it is as fine as the SVG.
    pub scale: f64,
}

impl<B: DrawingBackend> Pen<'_, B> {
    /// What a picture is of, and where that comes from.
    pub fn heading(
        &self,
        title: &str,
        below: &str,
        width: f64,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let middle = width / 2.0;
        let turned = || FontTransform::None;
        self.text(title, (middle, 24.0), 22.0, HPos::Center, turned())?;
        self.text(below, (middle, 47.0), 12.5, HPos::Center, turned())
    }

    /// A place in pixels of the area.
    pub fn pixel(&self, x: f64, y: f64) -> (i32, i32) {
        (
            (x * self.scale).round() as i32,
            (y * self.scale).round() as i32,
        )
    }

    /// A stroke's width in pixels of the area.
    pub fn thick(&self, width: f64) -> u32 {
        (width * self.scale).round().max(1.0) as u32
    }

    /// Text at a place, vertically in the middle of it.
    pub fn text(
        &self,
        text: &str,
        (x, y): (f64, f64),
        size: f64,
        horizontal: HPos,
        turned: FontTransform,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let style = ("sans-serif", size * self.scale)
            .into_font()
            .transform(turned)
            .color(&BLACK)
            .pos(Pos::new(horizontal, VPos::Center));
        self.area
            .draw(&Text::new(text.to_owned(), self.pixel(x, y), style))
    }

    /// A mark of a line's own shape.
    pub fn mark(
        &self,
        style: usize,
        place: (i32, i32),
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let size = (3.6 * self.scale).round() as i32;
        let colour = colour(style);
        let (x, y) = place;
        match style % 5 {
            0 => self.area.draw(&Circle::new(place, size, colour.filled())),
            1 => {
                let corners = [(x - size, y - size), (x + size, y + size)];
                self.area.draw(&Rectangle::new(corners, colour.filled()))
            }
            2 => self.area.draw(&TriangleMarker::new(
                place,
                size + size / 3,
                colour.filled(),
            )),
            3 => {
                let stroke = colour.stroke_width(self.thick(2.0));
                self.area.draw(&Cross::new(place, size, stroke))
            }
            _ => {
                let far = size + size / 3;
                let corners = vec![(x, y - far), (x + far, y), (x, y + far), (x - far, y)];
                self.area.draw(&Polygon::new(corners, colour.filled()))
            }
        }
    }

    /// A panel's two scales.
    pub fn plot<'b>(&'b self, panel: &'b Panel, x: (f64, f64), y: (f64, f64)) -> Plot<'b, B> {
        Plot {
            pen: self,
            panel,
            x,
            y,
        }
    }
}

/// A panel with its two scales.
pub struct Plot<'a, B: DrawingBackend> {
    pen: &'a Pen<'a, B>,
    panel: &'a Panel,
    x: (f64, f64),
    y: (f64, f64),
}

impl<B: DrawingBackend> Plot<'_, B> {
    /// A point in pixels of the SVG.
    pub fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        let panel = self.panel;
        (
            panel.left + part(x, self.x) * (panel.right - panel.left),
            panel.bottom - part(y, self.y) * (panel.bottom - panel.top),
        )
    }

    fn pixel(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let (x, y) = self.place(x, y);
        self.pen.pixel(x, y)
    }

    /// Straight lines through points.
    pub fn path(
        &self,
        points: &[(f64, f64)],
        style: ShapeStyle,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let pixels: Vec<_> = points.iter().map(|point| self.pixel(*point)).collect();
        self.pen.area.draw(&PathElement::new(pixels, style))
    }

    /// A line with its marks, and its interval as a band.
    fn line(
        &self,
        style: usize,
        middle: &[(f64, f64)],
        low: &[(f64, f64)],
        high: &[(f64, f64)],
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let colour = colour(style);
        let band: Vec<_> = high
            .iter()
            .chain(low.iter().rev())
            .map(|point| self.pixel(*point))
            .collect();
        if middle.len() > 1 {
            self.pen
                .area
                .draw(&Polygon::new(band, colour.mix(0.16).filled()))?;
        } else {
            let ends: Vec<_> = low.iter().chain(high).copied().collect();
            self.path(&ends, colour.stroke_width(self.pen.thick(1.2)))?;
        }
        self.path(
            middle,
            colour.stroke_width(self.pen.thick(if style == 0 { 2.4 } else { 1.8 })),
        )?;
        for point in middle {
            self.pen.mark(style, self.pixel(*point))?;
        }
        Ok(())
    }
}

/// A line's colour.
pub fn colour(style: usize) -> RGBColor {
    COLOURS[style % COLOURS.len()]
}

/// The least and the greatest.
pub fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match low <= high {
        true => (low, high),
        false => (0.0, 1.0),
    }
}

/// Powers of ten between two logarithms, and 2 and 5 times them where they are few.
fn decades(low: f64, high: f64) -> Vec<(f64, String)> {
    let parts: &[f64] = if high - low < 2.5 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let mut ticks = Vec::new();
    for power in low.floor() as i32..=high.ceil() as i32 {
        for part in parts {
            let value = part * 10f64.powi(power);
            if (low..=high).contains(&value.log10()) {
                ticks.push((value.log10(), tick_name(value)));
            }
        }
    }
    ticks
}

/// Some five round numbers between two.
pub fn steps(low: f64, high: f64) -> Vec<(f64, String)> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|part| part * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last)
        .map(|count| {
            let value = count as f64 * step;
            (value, tick_name(value))
        })
        .collect()
}

fn tick_name(value: f64) -> String {
    match value.abs() {
        n if n >= 1e4 => brief(value).replace(".0", ""),
        // Without what a sum of floating-point numbers adds.
        _ => ((value * 1e6).round() / 1e6).to_string(),
    }
}

/// The one font of the pictures, which is the program's own: PNG looks the same on
/// every machine, and none has to have fonts.
fn register_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        // The font is a part of this program, and sound.
        let _ = plotters::style::register_font("sans-serif", FontStyle::Normal, font);
    });
}

/// RGB, eight bits each, as PNG. Into memory nothing fails to be written.
fn encode(pixels: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Ok(mut writer) = encoder.write_header() {
        let _ = writer.write_image_data(pixels);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_numbers_lie_between_the_ends() {
        let names = |low, high| -> Vec<String> {
            steps(low, high).into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(names(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(names(0.91, 1.09), ["0.95", "1", "1.05"]);
        assert_eq!(names(0.0, 52_000.0), ["0", "20k", "40k"]);
    }

    #[test]
    fn decades_get_two_and_five_where_they_are_few() {
        let names = |low, high| -> Vec<String> {
            decades(low, high)
                .into_iter()
                .map(|(_, name)| name)
                .collect()
        };
        assert_eq!(names(-0.5, 1.1), ["0.5", "1", "2", "5", "10"]);
        assert_eq!(names(-1.0, 2.0), ["0.1", "1", "10", "100"]);
    }

    #[test]
    fn what_is_encoded_is_a_png_of_that_size() {
        let file = encode(&[0; 12], 2, 2);
        let decoder = png::Decoder::new(std::io::Cursor::new(file));
        let reader = decoder.read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().height), (2, 2));
    }
}
