//! The image decoder, which runs in the sandbox: reads an image and describes it.

use std::io::{Cursor, Read};

use base64::prelude::{BASE64_STANDARD, Engine};
use image::{
    AnimationDecoder, DynamicImage, Frames, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use serde_json::{Map, Value, json};

/// Longest side of the image from which a ThumbHash is computed.
const THUMB_SIDE: u32 = 100;
/// Maximum number of frames that are counted.
const MAX_FRAMES: u64 = 10_000;

/// What the decoder may use, and should find out.
#[derive(Clone, Copy, Debug)]
pub struct DecodeOptions {
    /// Maximum size of the content, in bytes.
    pub max_size: u64,
    /// Maximum number of pixels of a frame.
    pub max_pixels: u64,
    /// Whether to compute a ThumbHash.
    pub thumbhash: bool,
}

/// Reads an image from `content` and describes it as a JSON object. If it is no valid image, the
/// object has the member `error`.
pub fn describe(content: impl Read, options: DecodeOptions) -> Value {
    let described = read(content, options.max_size).and_then(|content| decode(&content, options));
    described.map_or_else(|error| json!({ "error": error }), Value::Object)
}

fn read(content: impl Read, max_size: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    content.take(max_size.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > max_size {
        return Err(format!("it has more than {max_size} bytes"));
    }
    Ok(bytes)
}

fn decode(content: &[u8], options: DecodeOptions) -> Result<Map<String, Value>, String> {
    let text = |error: image::ImageError| error.to_string();
    let mut reader = ImageReader::new(Cursor::new(content));
    reader = reader.with_guessed_format().map_err(|error| error.to_string())?;
    let Some(format) = reader.format().filter(|format| format_name(*format).is_some()) else {
        return Err("its format is not known".to_owned());
    };
    reader.limits(limits(options));
    let mut decoder = reader.into_decoder().map_err(text)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > options.max_pixels {
        return Err(format!("it has {width} × {height} pixels, more than {}", options.max_pixels));
    }
    let orientation = decoder.orientation().map_err(text)?;
    let has_location = decoder.exif_metadata().map_err(text)?.is_some_and(has_location);
    let has_alpha = decoder.color_type().has_alpha();
    let image = DynamicImage::from_decoder(decoder).map_err(text)?;
    if format == ImageFormat::Jpeg && !ends_like_jpeg(content) {
        return Err("it is cut off".to_owned());
    }
    let (width, height) = if swaps_sides(orientation) { (height, width) } else { (width, height) };
    let mut media = Map::new();
    media.insert("format".to_owned(), format_name(format).into());
    media.insert("width".to_owned(), width.into());
    media.insert("height".to_owned(), height.into());
    media.insert("orientation".to_owned(), orientation.to_exif().into());
    media.insert("has_alpha".to_owned(), has_alpha.into());
    media.insert("has_location".to_owned(), has_location.into());
    let (frames, duration_ms) = count_frames(content, format, options).map_err(text)?;
    media.insert("frames".to_owned(), frames.into());
    if frames > 1 {
        media.insert("duration_ms".to_owned(), duration_ms.into());
    }
    if options.thumbhash {
        media.insert("thumbhash".to_owned(), thumbhash(image, orientation).into());
    }
    Ok(media)
}

/// The name of a format that is decoded.
fn format_name(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Jpeg => Some("jpeg"),
        ImageFormat::Png => Some("png"),
        ImageFormat::Gif => Some("gif"),
        ImageFormat::WebP => Some("webp"),
        _ => None,
    }
}

fn limits(options: DecodeOptions) -> Limits {
    let mut limits = Limits::default();
    // 16 bits for each of 4 channels.
    limits.max_alloc = Some(options.max_pixels.saturating_mul(8).saturating_add(options.max_size));
    limits
}

fn swaps_sides(orientation: Orientation) -> bool {
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => true,
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => false,
    }
}

/// Whether EXIF data contain a position.
fn has_location(exif: Vec<u8>) -> bool {
    let parsed = exif::Reader::new().continue_on_error(true).read_raw(exif);
    let parsed = parsed.or_else(|error| error.distill_partial_result(|_| {}));
    parsed.is_ok_and(|exif| exif.get_field(exif::Tag::GPSLatitude, exif::In::PRIMARY).is_some())
}

/// Whether a JPEG has its end marker. Decoders fill up what is missing with grey.
fn ends_like_jpeg(content: &[u8]) -> bool {
    content.windows(2).rev().any(|pair| pair == [0xff, 0xd9])
}

/// Counts the frames of an animation, and adds up how long they are shown, in milliseconds.
fn count_frames(content: &[u8], format: ImageFormat, options: DecodeOptions) -> ImageResult<(u64, u64)> {
    let content = Cursor::new(content);
    let frames: Frames<'_> = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(content)?;
            decoder.set_limits(limits(options))?;
            decoder.into_frames()
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(content, limits(options))?;
            if !decoder.is_apng()? {
                return Ok((1, 0));
            }
            decoder.apng()?.into_frames()
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(content)?;
            if !decoder.has_animation() {
                return Ok((1, 0));
            }
            decoder.into_frames()
        }
        _ => return Ok((1, 0)),
    };
    let (mut count, mut duration_ms) = (0, 0);
    for frame in frames {
        let (numerator, denominator) = frame?.delay().numer_denom_ms();
        duration_ms += u64::from(numerator.checked_div(denominator).unwrap_or(0));
        count += 1;
        if count == MAX_FRAMES {
            break;
        }
    }
    Ok((count, duration_ms))
}

/// Computes a ThumbHash, in Base64.
fn thumbhash(mut image: DynamicImage, orientation: Orientation) -> String {
    image.apply_orientation(orientation);
    let small = image.thumbnail(THUMB_SIDE, THUMB_SIDE).into_rgba8();
    let (width, height) = (small.width() as usize, small.height() as usize);
    BASE64_STANDARD.encode(thumbhash::rgba_to_thumb_hash(width, height, small.as_raw()))
}
