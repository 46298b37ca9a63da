//! The two kinds of charts: lines, and bars of parts.

use std::{fs, ops::Range, path::Path};

use anyhow::{Result, anyhow};
use plotters::{
    chart::{ChartBuilder, ChartContext, SeriesLabelPosition},
    coord::{Shift, cartesian::Cartesian2d, types::RangedCoordf64},
    drawing::DrawingArea,
    element::{PathElement, Rectangle, Text},
    prelude::{Color as _, IntoDrawingArea as _, SVGBackend},
    series::LineSeries,
    style::{
        BLACK, IntoFont as _, IntoTextStyle as _, RGBColor, ShapeStyle, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{report::digits, spread::float};

/// Width and height.
const SIZE: (u32, u32) = (860, 420);

const FONT: &str = "sans-serif";

/// Colours that stay apart for everybody (Okabe and Ito: Color Universal Design).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(140, 140, 140),
    RGBColor(240, 228, 66),
];

/// What an axis shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    name: &'static str,
    /// Powers of a tenth of all, instead of numbers.
    is_percentiles: bool,
}

impl Axis {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, is_percentiles: false }
    }

    /// 0 is 0 %, 1 is 90 %, 2 is 99 %, and so on: what happens to few has as much room as what happens to many.
    pub(super) fn percentiles() -> Self {
        Self { name: "percentile", is_percentiles: true }
    }

    fn label(self, value: f64) -> String {
        if self.is_percentiles {
            // Only what has a name: 90 %, 99 %, and so on.
            let is_named = (value - value.round()).abs() < 1e-6;
            let percent = 100.0 * (1.0 - 10_f64.powf(-value));
            if is_named { format!("{}%", digits(percent, 6)) } else { String::new() }
        } else {
            digits(value, 3)
        }
    }
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub(super) struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub(super) fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points }
    }
}

/// A bar of a chart, and what it is made up of.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) parts: Vec<(String, f64)>,
}

/// Draws lines, if there are any; says whether.
pub(super) fn lines(file: &Path, title: &str, x: Axis, y: Axis, lines: &[Line]) -> Result<bool> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (x_max, y_max) = all().fold((0.0, 0.0), |(x, y): (f64, f64), point| (x.max(point.0), y.max(point.1)));
    if x_max <= 0.0 || y_max <= 0.0 {
        return Ok(false);
    }
    // A hair more, so that a last percentile of 99 % has its name; and no more names than there are.
    let (x_max, x_labels) = if x.is_percentiles {
        (x_max + 0.01, (1..20).take_while(|labels| f64::from(*labels) < x_max + 2.0).count())
    } else {
        (x_max, 11)
    };
    // Percentiles leave the lower right corner free; other lines get room above them for the legend.
    let (free, room) =
        if x.is_percentiles { (SeriesLabelPosition::LowerRight, 1.05) } else { (SeriesLabelPosition::UpperLeft, 1.25) };
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let mut chart = empty(&area, title, 64, 0.0..x_max, 0.0..y_max * room)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .axis_style(BLACK.mix(0.5))
            .label_style((FONT, 13).into_font())
            .axis_desc_style((FONT, 14).into_font())
            .x_desc(x.name)
            .x_labels(x_labels)
            .y_desc(y.name)
            .x_label_formatter(&|value| x.label(*value))
            .y_label_formatter(&|value| y.label(*value))
            .draw()
            .map_err(failed)?;
        for (line, colour) in lines.iter().zip(COLOURS.into_iter().cycle()) {
            let style = ShapeStyle::from(colour).stroke_width(2);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))
                .map_err(failed)?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        legend(&mut chart, free)?;
        area.present().map_err(failed)?;
    }
    fs::write(file, text)?;
    Ok(true)
}

/// Draws bars, if there are any; says whether.
pub(super) fn bars(file: &Path, title: &str, unit: &'static str, bars: &[Bar]) -> Result<bool> {
    let length = |bar: &Bar| bar.parts.iter().map(|part| part.1).sum::<f64>();
    let longest = bars.iter().map(length).fold(0.0, f64::max);
    if longest <= 0.0 {
        return Ok(false);
    }
    let count = float(bars.len());
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        // Room at the right for the legend.
        let mut chart = empty(&area, title, 130, 0.0..longest * 1.3, 0.0..count)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .axis_style(BLACK.mix(0.5))
            .label_style((FONT, 13).into_font())
            .axis_desc_style((FONT, 14).into_font())
            .x_desc(unit)
            .x_label_formatter(&|value| digits(*value, 3))
            .draw()
            .map_err(failed)?;
        let names = bars.first().map(|bar| bar.parts.iter().map(|part| part.0.as_str()).collect::<Vec<_>>());
        for (part, (part_name, colour)) in
            names.unwrap_or_default().into_iter().zip(COLOURS.into_iter().cycle()).enumerate()
        {
            let rectangles = bars.iter().enumerate().filter_map(|(place, bar)| {
                let from: f64 = bar.parts[..part.min(bar.parts.len())].iter().map(|part| part.1).sum();
                let until = from + bar.parts.get(part)?.1;
                let bottom = count - float(place) - 0.8;
                Some(Rectangle::new([(from, bottom), (until, bottom + 0.6)], colour.filled()))
            });
            chart
                .draw_series(rectangles)
                .map_err(failed)?
                .label(part_name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        for (place, bar) in bars.iter().enumerate() {
            let (left, middle) = chart.backend_coord(&(0.0, count - float(place) - 0.5));
            let style = (FONT, 13).into_font().into_text_style(&area).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(bar.name.clone(), (left - 8, middle), style)).map_err(failed)?;
        }
        if bars.iter().any(|bar| bar.parts.len() > 1) {
            legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        }
        area.present().map_err(failed)?;
    }
    fs::write(file, text)?;
    Ok(true)
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A chart of nothing yet, with so much room for what its vertical axis is labelled with.
fn empty<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, Shift>,
    title: &str,
    label_room: u32,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<Chart<'a, 'b>> {
    area.fill(&WHITE).map_err(failed)?;
    ChartBuilder::on(area)
        .caption(title, (FONT, 20).into_font())
        .margin(14)
        // The last label of the axis is wider than half a step.
        .margin_right(32)
        .x_label_area_size(44)
        .y_label_area_size(label_room)
        .build_cartesian_2d(x, y)
        .map_err(failed)
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition) -> Result<()> {
    chart
        .configure_series_labels()
        .position(position)
        .margin(12)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font((FONT, 13).into_font())
        .draw()
        .map_err(failed)
}

/// The drawing library's errors borrow what is drawn on.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}
