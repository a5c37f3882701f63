//! Messages between our own services. Whoever may publish to the default exchange can put anything on their queues.

use bytes::Bytes;
use wire::{DeliveryJob, FanOut, WireError, platform_event};

use crate::Verdict;

/// Reads a message as each of them.
pub fn check(input: &[u8]) -> Verdict {
    let message = Bytes::copy_from_slice(input);
    let fan_out = FanOut::decode(message.clone());
    if let Ok(fan_out) = &fan_out {
        let bytes: usize = fan_out.events.iter().map(|event| event.body.len()).sum();
        assert!(bytes <= input.len(), "bodies are slices of the message");
        assert_eq!(FanOut::decode(fan_out.encode()).as_ref(), Ok(fan_out));
        let grouped = FanOut::grouped(fan_out.events.clone());
        assert_eq!(
            grouped.into_iter().flat_map(|message| message.events).collect::<Vec<_>>(),
            fan_out.events
        );
    }
    let job = DeliveryJob::decode(message);
    if let Ok(job) = &job {
        assert!(
            job.body.as_ref().is_none_or(|body| body.len() <= input.len()),
            "the body is a slice of the message"
        );
        assert_eq!(DeliveryJob::decode(job.encode()).as_ref(), Ok(job));
    }
    if let Some(name) = platform_event::event_name(input) {
        assert!((1..=input.len()).contains(&name.len()), "a name is part of its message");
    }
    match (fan_out, job) {
        (Ok(FanOut { events }), Err(error)) if events.is_empty() => Verdict::Refused(kind(&error)),
        (Ok(_), _) | (_, Ok(_)) => Verdict::Accepted,
        (Err(one), Err(other)) => Verdict::Refused(format!("{}, {}", kind(&one), kind(&other))),
    }
}

fn kind(error: &WireError) -> String {
    match error {
        WireError::Malformed { message, .. } => format!("not a {message}"),
        WireError::Field { message, field, .. } => format!("{message}.{field}"),
    }
}
