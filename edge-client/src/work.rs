//! A round's work on a device: from a job and the stored features to an encoded update. Pure.

use grapevine_models::{Answer, DeviceState, Received, Samples, SamplesError, Shape, respond_while, stream};
use grapevine_protocol::limits::{MAX_BLOB_BYTES, MAX_HEADER_BYTES};
use grapevine_protocol::{
    BodyError, DeviceId, DeviceStateBody, ReceivedSideInformation, RoundAnnouncement, Update, response_bytes,
};

use crate::session::Job;
use crate::store::{Dataset, MethodState};

/// Why a round's work could not be done.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The fleet's side information does not fit this fleet.
    #[error("the fleet's model cannot be used: {0}")]
    Model(#[from] BodyError),
    /// What the method kept on this device does not fit this program.
    #[error("what the method kept on this device cannot be used: {0}")]
    State(#[source] BodyError),
    /// The stored features cannot be trained on.
    #[error("the stored features cannot be used: {0}")]
    Samples(#[from] SamplesError),
    /// Training left the range of numbers.
    #[error("training diverged ({0}); the fleet's learning rate is too high for these features")]
    Diverged(grapevine_models::HeadError),
    /// Dense prototypes of too large a fleet.
    #[error("the update has {0} bytes, more than the protocol carries; the fleet should use `redgrape-live`")]
    TooLarge(usize),
    /// The round is over or the device stops.
    #[error("the work was ended before its end; a round that goes on is worked on anew")]
    Interrupted,
    /// Nothing to do in this kind of round, or nothing to do it with.
    #[error("there are no stored features to work with; run `edge-client ingest`")]
    Nothing,
}

/// What a round's work gives. Both parts belong together: neither is kept without the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worked {
    /// The encoded update.
    pub update: Vec<u8>,
    /// What the method keeps on the device from now on; `None` where that stays as it is.
    pub state: Option<MethodState>,
}

/// Does what the announcement asks for; `kept` is what the method kept on this device last. Asks `goes_on` before every mini-batch.
///
/// # Errors
/// If nothing is asked, the model or the samples cannot be used, or training leaves the range of numbers.
pub fn work(
    job: &Job,
    device: &DeviceId,
    dataset: &Dataset,
    kept: Option<&MethodState>,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Worked, WorkError> {
    let RoundAnnouncement { run, shape, encoding, params, seed, round, task, .. } = &job.announcement;
    let request = task.request().ok_or(WorkError::Nothing)?;
    if dataset.labels.is_empty() && request.is_training() {
        return Err(WorkError::Nothing);
    }
    let samples = Samples::new(*shape, &dataset.features, &dataset.labels)?;
    let heads = job.heads.as_deref().cloned();
    let side_information = job.side_information.as_deref();
    let side_information =
        side_information.map(|content| ReceivedSideInformation::open(content, *shape)).transpose()?;
    let view = side_information.as_ref().map(ReceivedSideInformation::view);
    let rng = stream(*seed, round.0, device.as_str().as_bytes());
    let kept = kept.filter(|kept| kept.run == run.0).map(|kept| state(kept, *shape)).transpose()?;
    let received = Received { heads, side_information: view, device_state: kept.as_ref() };
    let Answer { response, device_state } = respond_while(request, samples, received, params, rng, goes_on)
        .map_err(WorkError::Diverged)?
        .ok_or(WorkError::Interrupted)?;
    let bytes = MAX_HEADER_BYTES + response_bytes(&response, *shape, *encoding);
    if bytes > MAX_BLOB_BYTES {
        return Err(WorkError::TooLarge(bytes));
    }
    let count = dataset.labels.len() as u32;
    let update = Update::encode_response(&response, count, dataset.id, *shape, *encoding);
    let state = device_state.map(|state| MethodState {
        run: run.0,
        round: round.0,
        is_confirmed: false,
        bytes: DeviceStateBody(state).encode(),
    });
    Ok(Worked { update, state })
}

fn state(kept: &MethodState, shape: Shape) -> Result<DeviceState, WorkError> {
    let value = DeviceStateBody::decode(&kept.bytes, shape).map_err(WorkError::State)?.0;
    Ok(DeviceState { value, is_confirmed: kept.is_confirmed })
}
