//! Images of a daemon's store: what is there, what comes in, what goes out and what is removed.

use bytes::Bytes;
use hyper::Method;
use sandpen_api::{
    ImageDetail, ImageEntry, ImageImportRequest, ImageLoadRequest, ImagePruneRequest, ImagePullRequest,
    ImagePushRequest, ImageRemoval, ImageSaveRequest, ImageTagRequest, ImageWork,
};
use sandpen_types::image::ImageReference;

use super::connection::{Body, Reply};
use super::lines::LineReader;
use super::stdin::StdinReceiver;
use super::{Client, ClientError};

impl Client {
    /// The images, the newest first.
    pub async fn images(&self) -> Result<Vec<ImageEntry>, ClientError> {
        self.get("/v1/images").await
    }

    /// The image that is meant by a name, its digest or the beginning of that.
    ///
    /// # Errors
    /// Codes [`ImageNotFound`](sandpen_api::ErrorCode::ImageNotFound),
    /// [`ImageAmbiguous`](sandpen_api::ErrorCode::ImageAmbiguous), [`InvalidName`](sandpen_api::ErrorCode::InvalidName).
    pub async fn image(&self, name: &str) -> Result<ImageDetail, ClientError> {
        self.get(&format!("/v1/image?name={}", encoded(name))).await
    }

    /// Gives an image a name more, which another one loses.
    ///
    /// # Errors
    /// Those of [`Client::image`].
    pub async fn tag_image(&self, request: &ImageTagRequest) -> Result<ImageEntry, ClientError> {
        self.call(Method::POST, "/v1/images/tag", Some(request)).await
    }

    /// Removes an image, or one name of several; with `force` also one with several names by its digest.
    ///
    /// # Errors
    /// Those of [`Client::image`]; codes [`ImageInUse`](sandpen_api::ErrorCode::ImageInUse) and
    /// [`ImageHasNames`](sandpen_api::ErrorCode::ImageHasNames).
    pub async fn remove_image(&self, name: &str, force: bool) -> Result<ImageRemoval, ClientError> {
        let target = format!("/v1/image?name={}&force={force}", encoded(name));
        self.call::<(), _>(Method::DELETE, &target, None).await
    }

    /// Removes images that no sandbox has, or says which would go.
    pub async fn prune_images(&self, request: ImagePruneRequest) -> Result<ImageRemoval, ClientError> {
        self.call(Method::POST, "/v1/images/prune", Some(&request)).await
    }

    /// Takes the images of an archive or of an OCI layout on the daemon's host into its store.
    ///
    /// # Errors
    /// Code [`InvalidImage`](sandpen_api::ErrorCode::InvalidImage).
    pub async fn load_images(&self, request: &ImageLoadRequest) -> Result<ImageWorkReader, ClientError> {
        self.work(Method::POST, "/v1/images/load", Body::json(request)?).await
    }

    /// The same of an archive that comes out of `input`.
    ///
    /// # Errors
    /// As [`Client::load_images`].
    pub async fn load_images_from(
        &self,
        input: StdinReceiver,
        name: Option<&ImageReference>,
        platform: Option<&str>,
    ) -> Result<ImageWorkReader, ClientError> {
        let name = name.map(|name| format!("name={}", encoded(&name.to_string())));
        let platform = platform.map(|platform| format!("platform={}", encoded(platform)));
        let query: Vec<_> = name.into_iter().chain(platform).collect();
        let target = format!("/v1/images/load?{}", query.join("&"));
        self.work(Method::PUT, &target, Body::Stream(input)).await
    }

    /// Gets an image from its registry into the daemon's store. Dropping the reader ends that; layers that are whole stay.
    ///
    /// # Errors
    /// Codes [`ImageNotFound`](sandpen_api::ErrorCode::ImageNotFound),
    /// [`RegistryDenied`](sandpen_api::ErrorCode::RegistryDenied),
    /// [`RegistryFailed`](sandpen_api::ErrorCode::RegistryFailed),
    /// [`InvalidImage`](sandpen_api::ErrorCode::InvalidImage).
    pub async fn pull_image(&self, request: &ImagePullRequest) -> Result<ImageWorkReader, ClientError> {
        self.work(Method::POST, "/v1/images/pull", Body::json(request)?).await
    }

    /// Puts an image of the daemon's store into a registry. Dropping the reader ends that: nothing has the image's name
    /// there then, or what had it before.
    ///
    /// # Errors
    /// Those of [`Client::image`]; codes [`InvalidRequest`](sandpen_api::ErrorCode::InvalidRequest) where nothing says
    /// where it goes, [`RegistryDenied`](sandpen_api::ErrorCode::RegistryDenied) and
    /// [`RegistryFailed`](sandpen_api::ErrorCode::RegistryFailed).
    pub async fn push_image(&self, request: &ImagePushRequest) -> Result<ImageWorkReader, ClientError> {
        self.work(Method::POST, "/v1/images/push", Body::json(request)?).await
    }

    /// Makes an image of a root directory of the daemon's host, or of a tar of one.
    ///
    /// # Errors
    /// Code [`InvalidImage`](sandpen_api::ErrorCode::InvalidImage).
    pub async fn import_image(&self, request: &ImageImportRequest) -> Result<ImageWorkReader, ClientError> {
        self.work(Method::POST, "/v1/images/import", Body::json(request)?).await
    }

    /// The same of a tar that comes out of `input`.
    ///
    /// # Errors
    /// As [`Client::import_image`].
    pub async fn import_image_from(
        &self,
        input: StdinReceiver,
        name: &ImageReference,
    ) -> Result<ImageWorkReader, ClientError> {
        let target = format!("/v1/images/import?name={}", encoded(&name.to_string()));
        self.work(Method::PUT, &target, Body::Stream(input)).await
    }

    /// Writes images as an archive.
    ///
    /// # Errors
    /// Those of [`Client::image`], of each.
    pub async fn save_images(&self, request: &ImageSaveRequest) -> Result<ImageArchiveReader, ClientError> {
        let reply = self.send(Method::POST, "/v1/images/save", Body::json(request)?).await?;
        Ok(ImageArchiveReader { reply })
    }

    async fn work(&self, method: Method, target: &str, body: Body) -> Result<ImageWorkReader, ClientError> {
        let reply = self.send(method, target, body).await?;
        Ok(ImageWorkReader { lines: LineReader::new(self.dir.socket(), reply) })
    }
}

/// What comes into the store, or goes to a registry, line by line.
pub struct ImageWorkReader {
    lines: LineReader<ImageWork>,
}

impl ImageWorkReader {
    /// The next line. The last one is [`ImageWork::Images`], or [`ImageWork::Pushed`] of a push.
    ///
    /// # Errors
    /// What failed, with its code; [`ClientError::ImagesCut`] where the daemon broke off: what was done until then is in
    /// the store, or nothing is left of it.
    pub async fn next(&mut self) -> Result<ImageWork, ClientError> {
        match self.lines.next().await {
            Ok(Some(ImageWork::Error(error))) => {
                let status = error.code.known().map_or(500, sandpen_api::ErrorCode::http_status);
                Err(ClientError::Api { status, error })
            }
            Ok(Some(work)) => Ok(work),
            Ok(None) => Err(ClientError::ImagesCut(None)),
            // What it says makes no sense, whoever asks again.
            Err(error @ (ClientError::Json { .. } | ClientError::TooLarge { .. })) => Err(error),
            Err(error) => Err(ClientError::ImagesCut(Some(Box::new(error)))),
        }
    }
}

/// An archive of images, piece by piece.
pub struct ImageArchiveReader {
    reply: Reply,
}

impl ImageArchiveReader {
    /// The next bytes; `None` when everything has come. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::ImagesCut`] where the daemon broke off: what came is no whole archive then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.reply.next().await.map_err(|error| ClientError::ImagesCut(Some(Box::new(error))))
    }
}

/// A value in a query.
fn encoded(text: &str) -> String {
    super::encoded(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_values_of_a_query() {
        assert_eq!(encoded("ghcr.io:5000/o/app:1@x"), "ghcr.io%3A5000%2Fo%2Fapp%3A1%40x");
        assert_eq!(encoded("a&b=c\n é"), "a%26b%3Dc%0A%20%C3%A9");
    }
}
