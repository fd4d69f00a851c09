//! An answer on its way to a caller who takes it in time, and to one who does not.

use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::sleep;

use super::*;
use crate::admission::{self, Door};
use crate::audio::{AudioClock, Hint};
use crate::metrics::{self, Levels, Metrics};

/// Chunks as they come.
struct Chunks(Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

const HALF_A_SECOND: Bytes = Bytes::from_static(&[0; 24_000]);

/// What is known of four chunks of half a second, one every 250 ms, of which the third is taken `late`.
async fn told(late: Duration) -> String {
    let books = Arc::new(Books::new(
        Door::new(admission::Settings::new(std::num::NonZeroU32::MIN)),
        Arc::new(Metrics::new(&metrics::Settings::default())),
        Duration::ZERO,
    ));
    let arrived = Instant::now();
    let permit = books.door.admit().await.unwrap();
    let clock = AudioClock::for_answer(Some("audio/L16;rate=24000"), None, Hint::default());
    let meter = Meter::new(arrived.into_std(), Duration::ZERO, clock, Duration::ZERO);
    let labels = Labels { protocol: Protocol::Http, model: books.metrics.model(None), code: 200 };
    let (engine, chunks) = channel(4);
    let mut answer = Metered::new(&books, Chunks(chunks), permit, meter, labels, arrived);
    tokio::spawn(async move {
        for _ in 0..4 {
            sleep(Duration::from_millis(250)).await;
            let _ = engine.send(HALF_A_SECOND).await;
        }
    });
    let mut taken = 0;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {
        frame.unwrap();
        taken += 1;
        if taken == 2 {
            sleep(late).await;
        }
    }
    assert_eq!(taken, 4);
    books.metrics.render(Instant::now().into_std(), &Levels::default())
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_is_late_leaves_the_engines_speed_unknown_and_one_who_waits_does_not() {
    let in_time = told(Duration::ZERO).await;
    assert!(in_time.contains("rtf_ratio_sum{model=\"other\",protocol=\"http\"} 0.375"), "{in_time}");
    assert!(in_time.contains("rtf_unknown_total{reason=\"slow_caller\"} 0"), "{in_time}");
    assert!(in_time.contains("chunk_gap_seconds_count{protocol=\"http\"} 3"), "{in_time}");
    let late = told(Duration::from_secs(5)).await;
    assert!(late.contains("rtf_unknown_total{reason=\"slow_caller\"} 1"), "{late}");
    assert!(late.contains("rtf_ratio_count{model=\"other\",protocol=\"http\"} 0"), "{late}");
    assert!(late.contains("streams_with_underrun_total{protocol=\"http\"} 0"), "{late}");
    // Nobody knows whether playback ran dry.
    assert!(late.contains("slo_events_total{slo=\"underrun\"} 0"), "{late}");
    assert!(late.contains("chunk_gap_seconds_sum{protocol=\"http\"} 0.25"), "{late}");
}
