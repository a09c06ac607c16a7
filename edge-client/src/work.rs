//! A round's work on a device: from a job and the stored features to an encoded update. Pure.

use grapevine_models::{ParamsError, Samples, SamplesError, Statistics, stream, train_while};
use grapevine_protocol::limits::{MAX_BLOB_BYTES, MAX_HEADER_BYTES};
use grapevine_protocol::{
    BodyError, DatasetId, DeviceId, HeadsBody, ReceivedAid, Task, Update, UpdateContent, trained_bytes,
};

use crate::session::Job;
use crate::store::Dataset;

/// Why a round's work could not be done.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The fleet's heads or aid do not fit this fleet.
    #[error("the fleet's model cannot be used: {0}")]
    Model(#[from] BodyError),
    /// The stored features cannot be trained on.
    #[error("the stored features cannot be used: {0}")]
    Samples(#[from] SamplesError),
    /// Hyper-parameters out of range.
    #[error("the round's hyper-parameters cannot be used: {0}")]
    Params(#[from] ParamsError),
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

/// Does what the notice asks for and gives the encoded update. Asks `goes_on` before every mini-batch.
pub fn work(
    job: &Job,
    device: &DeviceId,
    dataset: &Dataset,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<u8>, WorkError> {
    let notice = &job.notice;
    let samples = Samples::new(notice.shape, &dataset.features, &dataset.labels)?;
    if dataset.labels.is_empty() && !matches!(notice.task, Task::Statistics { .. }) {
        return Err(WorkError::Nothing);
    }
    match notice.task {
        Task::Wait | Task::Rest => Err(WorkError::Nothing),
        Task::Statistics { extent } => {
            if !goes_on() {
                return Err(WorkError::Interrupted);
            }
            let statistics = Statistics::of(&samples, extent, notice.params.min_samples_to_share);
            let content = UpdateContent::Statistics(statistics);
            let update = Update { samples: dataset.labels.len() as u32, dataset: dataset.id, content };
            Ok(update.encode(notice.shape, notice.encoding))
        }
        Task::Train => train_and_encode(job, device, dataset.id, samples, goes_on),
    }
}

fn train_and_encode(
    job: &Job,
    device: &DeviceId,
    dataset: DatasetId,
    samples: Samples<'_>,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<u8>, WorkError> {
    let notice = &job.notice;
    let (shape, params) = (notice.shape, notice.params.check()?);
    let heads = job.heads.as_deref().map(|content| HeadsBody::decode(content, shape)).transpose()?;
    let aid = job.aid.as_deref().map(|content| ReceivedAid::open(content, shape)).transpose()?;
    let rng = stream(notice.seed, notice.round.0, device.as_str().as_bytes());
    let heads = heads.map(|body| body.0);
    let trained = train_while(samples, heads, aid.as_ref().map(ReceivedAid::view), params, rng, goes_on)
        .map_err(WorkError::Diverged)?
        .ok_or(WorkError::Interrupted)?;
    let bytes = MAX_HEADER_BYTES + trained_bytes(&trained, shape, notice.encoding);
    if bytes > MAX_BLOB_BYTES {
        return Err(WorkError::TooLarge(bytes));
    }
    Ok(Update::encode_trained(&trained, samples.labels().len() as u32, dataset, shape, notice.encoding))
}
