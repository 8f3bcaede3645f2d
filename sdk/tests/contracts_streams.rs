//! Streams: what insertion and removal of tokens do to positions, masks and spans.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use twinspan_sdk::stream::{Form, Span, SpanKind, Stream};

const WIDTH: usize = 3;

/// Sentences of `words` tokens, numbered so that no two values agree, with their end positions
/// and what lies behind them as padding.
fn sentences(batch: usize, words: usize, ends: &[u32]) -> Stream {
    let data = numbered(batch, words, 0.0);
    let padding: Vec<u8> = (0..batch)
        .flat_map(|b| (0..words).map(move |i| (b, i)))
        .map(|(b, i)| u8::from(i as u32 > ends[b]))
        .collect();
    let padding = Tensor::from_vec(padding, (batch, words), &Device::Cpu).unwrap();
    Stream::words(data, Some(padding), ends[..batch].to_vec()).unwrap()
}

fn numbered(batch: usize, tokens: usize, from: f64) -> Tensor {
    let n = batch * tokens * WIDTH;
    let values: Vec<f64> = (0..n).map(|i| from + i as f64).collect();
    Tensor::from_vec(values, (batch, tokens, WIDTH), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn parts(stream: &Stream) -> (Vec<Span>, Vec<f64>, Vec<u32>) {
    match &stream.form {
        Form::Tokens {
            spans,
            padding,
            end,
            ..
        } => {
            let padding = padding.as_ref().map(values).unwrap_or_default();
            (spans.clone(), padding, end.clone())
        }
        _ => panic!("a stream of tokens"),
    }
}

proptest! {
    #[test]
    fn without_undoes_insert(
        batch in 1usize..4,
        words in 2usize..7,
        ends in prop::collection::vec(0u32..7, 3),
        added in 1usize..4,
        place in 0usize..8,
    ) {
        let ends: Vec<u32> = ends.iter().map(|e| e % words as u32).collect();
        let before = sentences(batch, words, &ends);
        let position = place % (words + 1);
        let between = before.insert(position, &numbered(1, added, 900.0), "a").unwrap();
        let after = between.without("a").unwrap();
        prop_assert_eq!(values(&after.data), values(&before.data));
        prop_assert_eq!(parts(&after), parts(&before));
        prop_assert_eq!(between.data.dims(), &[batch, words + added, WIDTH]);
    }

    #[test]
    fn ends_and_padding_follow_their_tokens(
        batch in 1usize..4,
        words in 2usize..7,
        ends in prop::collection::vec(0u32..7, 3),
        first in (1usize..4, 0usize..8),
        second in (1usize..4, 0usize..12),
    ) {
        let ends: Vec<u32> = ends.iter().map(|e| e % words as u32).collect();
        let before = sentences(batch, words, &ends);
        let one = before
            .insert(first.1 % (words + 1), &numbered(batch, first.0, 700.0), "a")
            .unwrap();
        let place = second.1 % (words + first.0 + 1);
        // Amid the tokens of another adapter is refused; its edges are not.
        let (start, len) = one.span(|k| matches!(k, SpanKind::Prompt(_))).unwrap();
        let two = one.insert(place, &numbered(1, second.0, 900.0), "b");
        if start < place && place < start + len {
            prop_assert!(two.is_err());
            return Ok(());
        }
        let two = two.unwrap();
        prop_assert_eq!(values(&two.at_end().unwrap()), values(&before.at_end().unwrap()));
        prop_assert_eq!(values(&two.content().unwrap()), values(&before.data));
        let padding = two.word_padding().unwrap().unwrap();
        prop_assert_eq!(values(&padding), parts(&before).1);
        let (spans, shown, _) = parts(&two);
        let total: usize = spans.iter().map(|s| s.len).sum();
        prop_assert_eq!(total, two.data.dim(1).unwrap());
        // Every prompt is shown, so the count of padding is that of the words.
        prop_assert_eq!(shown.iter().sum::<f64>(), parts(&before).1.iter().sum::<f64>());
        // One adapter's tokens leave the other's in place.
        let a = two.without("b").unwrap();
        prop_assert_eq!(values(&a.data), values(&one.data));
        prop_assert_eq!(parts(&a), parts(&one));
    }

    #[test]
    fn the_grid_leaves_prompts_and_special_tokens_out(
        rows in 1usize..4,
        columns in 1usize..4,
        special in 0usize..3,
        added in 1usize..3,
        place in 0usize..12,
    ) {
        let patches = rows * columns;
        let data = numbered(2, special + patches, 0.0);
        let stream = Stream::patches(data, special, (rows, columns));
        let grid = stream.grid().unwrap();
        prop_assert_eq!(grid.dims(), &[2, WIDTH, rows, columns]);
        // VPT's place: behind the special tokens, or anywhere in front of or behind the patches.
        let position = match place % (special + 2) {
            i if i <= special => i,
            _ => special + patches,
        };
        let prompted = stream.insert(position, &numbered(1, added, 900.0), "vpt").unwrap();
        prop_assert_eq!(values(&prompted.grid().unwrap()), values(&grid));
        prop_assert_eq!(values(&prompted.content().unwrap()), values(&stream.content().unwrap()));
        // What is added on the grid touches patches alone.
        let moved = prompted.add_on_grid(&grid.ones_like().unwrap()).unwrap();
        let difference = (moved.data - &prompted.data).unwrap();
        prop_assert_eq!(values(&difference).iter().sum::<f64>(), (2 * patches * WIDTH) as f64);
        prop_assert_eq!(values(&moved_grid(&prompted, &grid)), values(&(grid + 1.0).unwrap()));
    }

    #[test]
    fn expansion_keeps_rows_whole(
        ends in prop::collection::vec(0u32..4, 3),
        rows in prop::collection::vec(0u32..3, 1..6),
    ) {
        let items = sentences(3, 4, &ends);
        let pairs = items.select(&rows).unwrap();
        for (i, row) in rows.iter().enumerate() {
            let one = items.select(&[*row]).unwrap();
            let here = pairs.select(&[i as u32]).unwrap();
            prop_assert_eq!(values(&here.data), values(&one.data));
            prop_assert_eq!(parts(&here), parts(&one));
        }
    }
}

proptest! {
    #[test]
    fn padding_that_all_share_is_dropped_from_behind(
        batch in 1usize..4,
        words in 2usize..9,
        ends in prop::collection::vec(0u32..9, 3),
        most in 0usize..11,
    ) {
        let ends: Vec<u32> = ends.iter().map(|e| e % words as u32).collect();
        let before = sentences(batch, words, &ends);
        let after = before.without_padding(most).unwrap();
        let longest = *ends[..batch].iter().max().unwrap() as usize;
        let left = words - most.min(words - 1 - longest);
        prop_assert_eq!(values(&after.data), values(&before.data.narrow(1, 0, left).unwrap()));
        let mask = before.word_padding().unwrap().unwrap().narrow(1, 0, left).unwrap();
        prop_assert_eq!(parts(&after), (vec![words_of(left)], values(&mask), parts(&before).2));
        prop_assert_eq!(values(&after.at_end().unwrap()), values(&before.at_end().unwrap()));
    }
}

fn words_of(len: usize) -> Span {
    let kind = SpanKind::Words;
    Span { kind, len }
}

fn prompt_of(len: usize) -> Span {
    let kind = SpanKind::Prompt("coop".into());
    Span { kind, len }
}

/// A stream whose sentences end at the last token, padding or not.
fn read_at_the_last(mut stream: Stream) -> Stream {
    let last = stream.data.dim(1).unwrap() as u32 - 1;
    if let Form::Tokens { end, .. } = &mut stream.form {
        end.fill(last);
    }
    stream
}

#[test]
fn who_ends_behind_dropped_padding_ends_at_the_last_that_is_left() {
    let stream = read_at_the_last(sentences(2, 6, &[1, 2]));
    let two = stream.without_padding(2).unwrap();
    assert_eq!(parts(&two).2, [3, 3]);
    let ends = two.at_end().unwrap();
    let last = stream.data.narrow(1, 3, 1).unwrap();
    assert_eq!(values(&ends), values(&last));
    // The longer sentence has words up to the third token.
    let all = stream.without_padding(6).unwrap();
    let mask = vec![0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    assert_eq!(parts(&all), (vec![words_of(3)], mask, vec![2, 2]));
}

#[test]
fn prompts_stay_where_padding_is_dropped() {
    let prompts = numbered(1, 2, 900.0);
    let dropped = |position: usize, most: usize| {
        let stream = sentences(1, 5, &[1]).insert(position, &prompts, "coop");
        let after = stream.unwrap().without_padding(most).unwrap();
        let kept = after.without("coop").unwrap();
        let words = parts(&kept).0.iter().map(|s| s.len).sum::<usize>();
        let front = numbered(1, 5, 0.0).narrow(1, 0, words).unwrap();
        assert_eq!(values(&kept.data), values(&front));
        parts(&after).0
    };
    assert_eq!(dropped(0, 2), [prompt_of(2), words_of(3)]);
    assert_eq!(dropped(1, 2), [words_of(1), prompt_of(2), words_of(2)]);
    // What lay behind the prompts goes as a whole.
    assert_eq!(dropped(2, 3), [words_of(2), prompt_of(2)]);
    // Padding in front of them is not at the end.
    assert_eq!(dropped(2, 9), [words_of(2), prompt_of(2)]);
    assert_eq!(dropped(5, 2), [words_of(5), prompt_of(2)]);
}

#[test]
fn where_there_is_no_padding_nothing_is_dropped() {
    let full = sentences(2, 3, &[0, 2]);
    assert_eq!(parts(&full.without_padding(2).unwrap()), parts(&full));
    let bare = Stream::words(numbered(1, 3, 0.0), None, vec![2]).unwrap();
    assert_eq!(parts(&bare.without_padding(2).unwrap()), parts(&bare));
    let picture = Stream::patches(numbered(1, 5, 0.0), 1, (2, 2));
    assert_eq!(parts(&picture.without_padding(2).unwrap()), parts(&picture));
    let map = numbered(2, 4, 0.0).reshape((2, 2, 2, 3)).unwrap();
    let same = Stream::map(map.clone()).without_padding(2).unwrap();
    assert_eq!(values(&same.data), values(&map));
    // A sentence of nothing else keeps it all.
    let hidden = Tensor::ones((1, 3), DType::U8, &Device::Cpu).unwrap();
    let empty = Stream::words(numbered(1, 3, 0.0), Some(hidden), vec![2]).unwrap();
    assert_eq!(parts(&empty.without_padding(3).unwrap()), parts(&empty));
    assert_eq!(
        empty.without_padding(2).unwrap().data.dims(),
        &[1, 1, WIDTH]
    );
}

fn moved_grid(stream: &Stream, grid: &Tensor) -> Tensor {
    let ones = grid.ones_like().unwrap();
    stream.add_on_grid(&ones).unwrap().grid().unwrap()
}

#[test]
fn content_of_parted_words_is_in_order() {
    let stream = sentences(1, 3, &[2])
        .insert(1, &numbered(1, 2, 900.0), "coop")
        .unwrap();
    let kinds: Vec<(SpanKind, usize)> = parts(&stream)
        .0
        .into_iter()
        .map(|s| (s.kind, s.len))
        .collect();
    let prompt = SpanKind::Prompt("coop".into());
    let wanted = [(SpanKind::Words, 1), (prompt, 2), (SpanKind::Words, 2)];
    assert_eq!(kinds, wanted);
    assert_eq!(
        values(&stream.content().unwrap()),
        values(&numbered(1, 3, 0.0))
    );
    let added = stream.add_to_content(&numbered(1, 3, 0.0)).unwrap();
    let doubled = values(&(numbered(1, 3, 0.0) * 2.0).unwrap());
    assert_eq!(values(&added.content().unwrap()), doubled);
    let prompts = added.data.narrow(1, 1, 2).unwrap();
    assert_eq!(values(&prompts), values(&numbered(1, 2, 900.0)));
}

#[test]
fn maps_have_pixels_for_tokens() {
    let data = numbered(2, 4, 0.0).reshape((2, 2, 2, 3)).unwrap();
    let map = Stream::map(data.clone());
    assert_eq!(values(&map.grid().unwrap()), values(&data));
    let tokens = map.content().unwrap();
    assert_eq!(tokens.dims(), &[2, 6, 2]);
    let twice = map.add_to_content(&tokens).unwrap();
    assert_eq!(values(&twice.data), values(&(data * 2.0).unwrap()));
    assert!(map.insert(0, &numbered(2, 1, 0.0), "vpt").is_err());
}

#[test]
fn prompts_go_behind_what_stands_in_front() {
    let sentence = sentences(2, 4, &[3, 2]);
    assert_eq!(sentence.front(), 0);
    let started = sentence.clone().started().unwrap();
    assert_eq!(started.front(), 1);
    // A start token is one of the words, so nothing else changes for those who read them.
    let content = values(&started.content().unwrap());
    assert_eq!(content, values(&sentence.content().unwrap()));
    let prompted = started.insert(1, &numbered(2, 2, 900.0), "coop").unwrap();
    assert_eq!(prompted.front(), 1);
    assert_eq!(values(&prompted.content().unwrap()), content);
    let back = prompted.without("coop").unwrap();
    assert_eq!(parts(&back), parts(&started));
    assert!(started.started().is_err());
    let picture = Stream::patches(numbered(1, 9, 0.0), 5, (2, 2));
    assert_eq!(picture.front(), 5);
    assert!(picture.started().is_err());
}
