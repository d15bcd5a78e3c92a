//! What a daemon's host holds and takes: disks, volumes, figures, and what may go.

use hyper::Method;
use sandpen_api::{DiskEntry, DiskUsage, PruneReply, PruneRequest, ReconcileReply, Stats, VolumeEntry};
use sandpen_types::spec::{DiskName, SandboxKey, VolumeName};

use super::connection::Body;
use super::{Client, ClientError, ClientOptions, StatsReader};

impl Client {
    /// The disks with names of their own.
    pub async fn disks(&self) -> Result<Vec<DiskEntry>, ClientError> {
        self.get("/v1/disks").await
    }

    /// Removes a named disk that no live sandbox has.
    ///
    /// # Errors
    /// Codes [`NotFound`](sandpen_api::ErrorCode::NotFound) and [`DiskInUse`](sandpen_api::ErrorCode::DiskInUse).
    pub async fn remove_disk(&self, name: &DiskName) -> Result<(), ClientError> {
        let reply = self.send(Method::DELETE, &format!("/v1/disks/{name}"), Body::Empty).await?;
        reply.collect().await.map(drop)
    }

    /// The volumes with names of their own.
    pub async fn volumes(&self) -> Result<Vec<VolumeEntry>, ClientError> {
        self.get("/v1/volumes").await
    }

    /// Removes a named volume that no sandbox has, with all that is in it.
    ///
    /// # Errors
    /// Codes [`NotFound`](sandpen_api::ErrorCode::NotFound) and [`VolumeInUse`](sandpen_api::ErrorCode::VolumeInUse).
    pub async fn remove_volume(&self, name: &VolumeName) -> Result<(), ClientError> {
        let reply = self.send(Method::DELETE, &format!("/v1/volumes/{name}"), Body::Empty).await?;
        reply.collect().await.map(drop)
    }

    /// What sandboxes take at this moment: these, or all that have not ended, or with `all` every one.
    ///
    /// # Errors
    /// Code [`NotFound`](sandpen_api::ErrorCode::NotFound).
    pub async fn stats(&self, keys: &[SandboxKey], all: bool) -> Result<Stats, ClientError> {
        let names = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        self.get(&format!("/v1/stats?all={all}&sandboxes={names}")).await
    }

    /// The same again and again. `options` find the next daemon if this one dies or is replaced.
    pub fn stats_reader(&self, options: &ClientOptions, keys: Vec<SandboxKey>, all: bool) -> StatsReader {
        StatsReader::new(self.clone(), options, keys, all)
    }

    /// What takes room on the host's disk, kind by kind; with `items` each thing too.
    pub async fn disk_usage(&self, items: bool) -> Result<DiskUsage, ClientError> {
        self.get(&format!("/v1/disk-usage?items={items}")).await
    }

    /// Removes what nothing uses, or says what that would be.
    pub async fn prune(&self, request: PruneRequest) -> Result<PruneReply, ClientError> {
        self.call(Method::POST, "/v1/prune", Some(&request)).await
    }

    /// Looks for what belongs to nobody and removes it.
    pub async fn reconcile(&self) -> Result<ReconcileReply, ClientError> {
        self.call::<(), _>(Method::POST, "/v1/reconcile", None).await
    }
}
