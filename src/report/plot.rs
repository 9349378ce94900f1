//! Curves and bars as SVG, drawn by `plotters` and coloured by the page: every colour is a CSS variable, so that one
//! drawing serves light and dark.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{BoldPoints, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// SVG coordinates of the backend are whole numbers: drawn large and shown small, lines are smooth.
const SCALE: u32 = 4;
/// Size on the page at which text has its natural size.
const SIZE: (u32, u32) = (380, 210);
/// Height of text on the page. The backend divides by 1.24.
const TEXT: f64 = 11.0 * 1.24;
/// Height of a line of words above a frame, in coordinates.
const WORD_HEIGHT: u32 = 14 * SCALE;
/// Steps nearer than this share of the axis would have their words run into each other.
const WORD_WIDTH: f64 = 0.4;
/// Numbers at an axis, about.
const X_LABELS: usize = 6;
const Y_LABELS: usize = 5;
/// Width of a digit on the page.
const WIDTH_OF_DIGIT: f64 = 6.4;
/// Decimals of a number at an axis before powers of ten are shorter, and digits at most.
const MOST_DECIMALS: usize = 9;
const MOST_DIGITS: usize = 15;
/// Run colours that the page has; more runs share them.
pub(super) const RUN_COLOURS: usize = 6;

type Drawn<T> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Width of a drawing that stands alone, in pixels.
const SHOWN: f64 = 900.0;
/// The page's colours of drawings, for those that stand alone.
const COLOURS: &str = "svg{--card:#fff;--text:#1d2327;--muted:#667079;--grid:#dfe3e6;--run-1:#2f66c9;--run-2:#c2560f;\
    --run-3:#14806f;--run-4:#8b45c2;--run-5:#8f7200;--run-6:#bd3a72}@media(prefers-color-scheme:dark){svg{--card:#1c2024;\
    --text:#e4e7ea;--muted:#98a2ab;--grid:#333a40;--run-1:#7da9f5;--run-2:#f0935a;--run-3:#4cc4ae;--run-4:#c193ee;\
    --run-5:#d8bd4a;--run-6:#f083b0}}";

/// The colour that something is drawn with: the page's colour of a run, or of the frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Run(usize),
    Grid,
    Text,
}

impl Ink {
    /// A colour that nothing else has, to be replaced in the text of the drawing.
    fn stand_in(self) -> RGBColor {
        match self {
            Self::Run(index) => RGBColor(1, 0, (index % RUN_COLOURS) as u8),
            Self::Grid => RGBColor(1, 1, 0),
            Self::Text => RGBColor(1, 1, 1),
        }
    }

    fn variable(self) -> String {
        match self {
            Self::Run(index) => format!("var(--run-{})", index % RUN_COLOURS + 1),
            Self::Grid => "var(--grid)".to_owned(),
            Self::Text => "var(--muted)".to_owned(),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        (0..RUN_COLOURS)
            .map(Self::Run)
            .chain([Self::Grid, Self::Text])
    }
}

/// A line through points.
pub(super) struct Line {
    pub(super) points: Vec<(f64, f64)>,
    pub(super) ink: Ink,
    pub(super) faint: bool,
    /// `true` if each point is marked.
    pub(super) dots: bool,
}

/// A place on the axes that is pointed out.
pub(super) enum Mark {
    /// A ring around a point.
    Point { at: (f64, f64), ink: Ink },
    /// A dashed line up from a step, with a word at its top.
    Step { at: f64, word: String },
    /// A dashed line at a height, with a word on it.
    Level { at: f64, word: String },
}

/// Curves in one frame.
pub(super) struct Plot {
    pub(super) lines: Vec<Line>,
    pub(super) marks: Vec<Mark>,
    /// Ends of the horizontal axis.
    pub(super) x: (f64, f64),
}

/// Bars side by side: from, to, height.
pub(super) type Bar = (f64, f64, f64);

impl Plot {
    /// The drawing as an `svg` element without its own width, height or colours; `label` says what it shows.
    pub(super) fn svg(&self, label: &str) -> Drawn<String> {
        let heights = self.lines.iter().flat_map(|line| &line.points);
        let levels = self.marks.iter().filter_map(|mark| match mark {
            Mark::Level { at, .. } => Some(*at),
            _ => None,
        });
        let y = padded(heights.map(|point| point.1).chain(levels));
        let rows = self.word_rows();
        let room = rows.iter().map(|row| row + 1).max().unwrap_or(0) * WORD_HEIGHT;
        draw(label, |root| {
            let mut chart = frame(root, self.x, y, true, room)?;
            for line in &self.lines {
                let colour = line.ink.stand_in();
                let (shown, width) = if line.faint {
                    (colour.mix(0.3), SCALE)
                } else {
                    (colour.to_rgba(), 2 * SCALE)
                };
                let style = shown.stroke_width(width);
                chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
                if line.dots {
                    let dot = |&at| Circle::new(at, 3 * SCALE, colour.filled());
                    chart.draw_series(line.points.iter().map(dot))?;
                }
            }
            let mut rows = rows.iter();
            for mark in &self.marks {
                let row = match mark {
                    Mark::Step { .. } => rows.next().copied().unwrap_or(0),
                    _ => 0,
                };
                self.draw_mark(&mut chart, mark, y, row * WORD_HEIGHT)?;
            }
            Ok(())
        })
    }

    /// For each marked step the row above the frame in which its word stands: over those of steps that are near.
    fn word_rows(&self) -> Vec<u32> {
        let mut rows: Vec<(f64, u32)> = Vec::new();
        for mark in &self.marks {
            if let Mark::Step { at, .. } = mark {
                let reach = WORD_WIDTH * (self.x.1 - self.x.0);
                let near = rows.iter().filter(|(other, _)| (other - at).abs() < reach);
                let row = near.map(|(_, row)| row + 1).max().unwrap_or(0);
                rows.push((*at, row));
            }
        }
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// The word of a step stands `above` coordinates over the frame.
    fn draw_mark(&self, chart: &mut Chart, mark: &Mark, y: (f64, f64), above: u32) -> Drawn<()> {
        let gap = 4 * SCALE;
        let thin = Ink::Text.stand_in().stroke_width(SCALE);
        match mark {
            Mark::Point { at, ink } => {
                let ring = ink.stand_in().stroke_width(2 * SCALE);
                chart.draw_series([Circle::new(*at, 6 * SCALE, ring)])?;
            }
            Mark::Step { at, word } => {
                let line = [(*at, y.0), (*at, y.1)];
                chart.draw_series(DashedLineSeries::new(line, gap, gap, thin))?;
                let right = *at > f64::midpoint(self.x.0, self.x.1);
                let style = style_of_words(right, VPos::Bottom);
                let word = Text::new(word.clone(), (0, -(above as i32)), style);
                chart.draw_series([EmptyElement::at((*at, y.1)) + word])?;
            }
            Mark::Level { at, word } => {
                let line = [(self.x.0, *at), (self.x.1, *at)];
                chart.draw_series(DashedLineSeries::new(line, gap, gap, thin))?;
                let style = style_of_words(true, VPos::Top);
                let word = Text::new(word.clone(), (0, 3 * SCALE as i32), style);
                chart.draw_series([EmptyElement::at((self.x.1, *at)) + word])?;
            }
        }
        Ok(())
    }
}

/// Bars as an `svg` element; `ink` is their colour.
pub(super) fn bars(bars: &[Bar], ink: Ink, label: &str) -> Drawn<String> {
    let x = (
        bars.iter().map(|bar| bar.0).fold(f64::INFINITY, f64::min),
        bars.iter()
            .map(|bar| bar.1)
            .fold(f64::NEG_INFINITY, f64::max),
    );
    let x = if x.0 < x.1 {
        x
    } else {
        padded([x.0, x.1].into_iter())
    };
    let highest = bars.iter().map(|bar| bar.2).fold(1.0, f64::max);
    draw(label, |root| {
        let mut chart = frame(root, x, (0.0, 1.05 * highest), false, 0)?;
        let gap = 0.06 * (x.1 - x.0) / bars.len().max(1) as f64;
        let bar = |&(from, to, height): &Bar| {
            let corners = [(from + gap, 0.0), ((to - gap).max(from + gap), height)];
            Rectangle::new(corners, ink.stand_in().filled())
        };
        chart.draw_series(bars.iter().map(bar))?;
        Ok(())
    })
}

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw(label: &str, paint: impl FnOnce(&Root) -> Drawn<()>) -> Drawn<String> {
    let mut text = String::new();
    {
        let backend = SVGBackend::with_string(&mut text, (SIZE.0 * SCALE, SIZE.1 * SCALE));
        let root = backend.into_drawing_area();
        paint(&root)?;
        root.present()?;
    }
    Ok(themed(&text, label))
}

/// Axes, grid and numbers, with `room` above; numbers of whole steps have no decimals.
fn frame<'a, 'b>(
    root: &Root<'b>,
    x: (f64, f64),
    y: (f64, f64),
    steps: bool,
    room: u32,
) -> Drawn<Chart<'a, 'b>> {
    let (x_ticks, y_ticks) = (Ticks::new(x, X_LABELS), Ticks::new(y, Y_LABELS));
    let widest = (WIDTH_OF_DIGIT * y_ticks.longest as f64) as u32 + 10;
    let mut chart = ChartBuilder::on(root)
        .margin_top(10 * SCALE + room)
        .margin_right(14 * SCALE)
        .x_label_area_size(22 * SCALE)
        .y_label_area_size(widest.max(50) * SCALE)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(X_LABELS)
        .y_labels(Y_LABELS)
        .set_all_tick_mark_size(3 * SCALE)
        .light_line_style(TRANSPARENT)
        .bold_line_style(Ink::Grid.stand_in().stroke_width(SCALE))
        .axis_style(Ink::Grid.stand_in().stroke_width(SCALE))
        .label_style(font().color(&Ink::Text.stand_in()))
        .x_label_formatter(&|value| {
            if !steps {
                x_ticks.word(*value)
            } else if value.fract() == 0.0 {
                super::words::number(*value)
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|value| y_ticks.word(*value))
        .draw()?;
    Ok(chart)
}

fn font() -> FontDesc<'static> {
    ("sans-serif", TEXT * f64::from(SCALE)).into_font()
}

/// The style of words that end or begin at their place, and stand on it or hang from it.
fn style_of_words(end: bool, vertical: VPos) -> TextStyle<'static> {
    let horizontal = if end { HPos::Right } else { HPos::Left };
    let colour = Ink::Text.stand_in();
    font().color(&colour).pos(Pos::new(horizontal, vertical))
}

/// How the numbers at an axis are written: with the digits of its step, so that no two are alike.
struct Ticks {
    decimals: usize,
    /// Powers of ten instead of zeros.
    scientific: bool,
    /// Letters of the longest one.
    longest: usize,
}

impl Ticks {
    fn new(ends: (f64, f64), labels: usize) -> Self {
        let ticks = RangedCoordf64::from(ends.0..ends.1).key_points(BoldPoints(labels));
        let gaps = ticks.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        let step = gaps.fold(f64::INFINITY, f64::min);
        let step = if step.is_finite() {
            step
        } else {
            ends.1 - ends.0
        };
        let largest = ticks
            .iter()
            .fold(0.0_f64, |largest, tick| largest.max(tick.abs()));
        let exact = |scientific: bool| {
            (0..=MOST_DIGITS).find(|&decimals| {
                ticks.iter().all(|&tick| {
                    let written = written(tick, decimals, scientific).parse().unwrap_or(tick);
                    (tick - written).abs() < 1e-3 * step
                })
            })
        };
        let plain = exact(false)
            .filter(|decimals| *decimals <= MOST_DECIMALS && (1e-4..1e5).contains(&largest));
        let (decimals, scientific) = match plain {
            Some(decimals) => (decimals, false),
            None => (exact(true).unwrap_or(MOST_DIGITS), true),
        };
        let longest = ticks
            .iter()
            .map(|&tick| written(tick, decimals, scientific).len());
        Self {
            decimals,
            scientific,
            longest: longest.max().unwrap_or(0),
        }
    }

    fn word(&self, value: f64) -> String {
        super::words::signed(&written(value, self.decimals, self.scientific))
    }
}

fn written(value: f64, decimals: usize, scientific: bool) -> String {
    if scientific && value.abs() > 0.0 {
        format!("{value:.decimals$e}")
    } else if scientific {
        "0".to_owned()
    } else {
        format!("{value:.decimals$}")
    }
}

/// The range of values with some room; of equal ones a range around them.
fn padded(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.fold((f64::INFINITY, f64::NEG_INFINITY), |ends, value| {
        (ends.0.min(value), ends.1.max(value))
    });
    match ends.1 - ends.0 {
        width if width > 0.0 => (ends.0 - 0.06 * width, ends.1 + 0.06 * width),
        _ => {
            let half = (ends.0.abs() * 0.1).max(1e-6);
            (ends.0 - half, ends.0 + half)
        }
    }
}

/// The drawing with the page's colours and font, as wide as its place.
fn themed(text: &str, label: &str) -> String {
    let begin = text.find('>').map_or(0, |end| end + 1);
    let mut body = text[begin..].replace(" font-family=\"sans-serif\"", "");
    for ink in Ink::all() {
        let RGBColor(red, green, blue) = ink.stand_in();
        body = body.replace(&format!("#{red:02X}{green:02X}{blue:02X}"), &ink.variable());
    }
    format!(
        "<svg class=\"chart\" role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {} {}\">{body}",
        escaped(label),
        SIZE.0 * SCALE,
        SIZE.1 * SCALE,
    )
}

/// A drawing of the page as a file of its own: with its size, its colours, and what it shows above it; `runs` are the
/// names of its lines, each with the number of its colour.
pub(super) fn alone(svg: &str, size: (f64, f64), title: &str, runs: &[(usize, &str)]) -> String {
    let begin = svg.find('>').map_or(0, |end| end + 1);
    let (width, height) = size;
    let line = 0.045 * width;
    let letters = 0.5 * line;
    let rows = 1.0 + f64::from(u8::from(!runs.is_empty()));
    let (top, left) = (rows * line, 0.3 * line);
    let whole = height + top;
    let legend = runs.iter().fold(String::new(), |text, (colour, name)| {
        format!(
            "{text}<tspan fill=\"var(--run-{colour})\">\u{25cf} </tspan>{}<tspan> \u{2003}</tspan>",
            escaped(name)
        )
    });
    let legend = match legend.as_str() {
        "" => legend,
        _ => format!(
            "<text x=\"{left:.1}\" y=\"{:.1}\" font-size=\"{:.1}\" fill=\"var(--muted)\">{legend}</text>",
            -0.35 * line,
            0.8 * letters
        ),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{title}\" width=\"{SHOWN}\" height=\"{tall:.0}\" \
         viewBox=\"0 {from:.1} {width} {whole:.1}\" font-family=\"system-ui, sans-serif\"><style>{COLOURS}</style>\
         <rect y=\"{from:.1}\" width=\"100%\" height=\"100%\" fill=\"var(--card)\"/>\
         <text x=\"{left:.1}\" y=\"{base:.1}\" font-size=\"{letters:.1}\" font-weight=\"600\" fill=\"var(--text)\">{title}</text>\
         {legend}{body}\n",
        title = escaped(title),
        tall = whole * SHOWN / width,
        from = -top,
        base = 0.65 * line - top,
        body = &svg[begin..],
    )
}

/// Size of the drawings of [`Plot::svg`] and [`bars`], in their own units.
pub(super) fn size() -> (f64, f64) {
    (f64::from(SIZE.0 * SCALE), f64::from(SIZE.1 * SCALE))
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#x27;")
}
