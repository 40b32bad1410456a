//! What a gRPC call costs with nothing behind it: Cache.Get on plain tonic, the same messages and allocator as the gateway's,
//! no layers, no Redis. `benches/compare.py` measures the gateway against it. Serves on 127.0.0.1, on the port of its one argument.

use std::{env, error::Error, net::SocketAddr};

use bytes::Bytes;
use redis_gateway::proto::{
    CacheBatchDeleteRequest, CacheBatchDeleteResponse, CacheBatchGetRequest, CacheBatchGetResponse,
    CacheBatchSetRequest, CacheBatchSetResponse, CacheDeleteRequest, CacheDeleteResponse, CacheFillRequest,
    CacheFillResponse, CacheGetOrLeaseRequest, CacheGetOrLeaseResponse, CacheGetRequest, CacheGetResponse,
    CacheGiveUpRequest, CacheGiveUpResponse, CacheSetRequest, CacheSetResponse,
    cache_server::{Cache, CacheServer},
};
use tonic::{Request, Response, Status, transport::Server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers each Get with the same value.
struct Bare {
    value: Bytes,
}

#[tonic::async_trait]
impl Cache for Bare {
    async fn get(&self, _: Request<CacheGetRequest>) -> Result<Response<CacheGetResponse>, Status> {
        Ok(Response::new(CacheGetResponse {
            value: Some(self.value.clone()),
            ..CacheGetResponse::default()
        }))
    }

    async fn batch_get(&self, _: Request<CacheBatchGetRequest>) -> Result<Response<CacheBatchGetResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }

    async fn set(&self, _: Request<CacheSetRequest>) -> Result<Response<CacheSetResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }

    async fn batch_set(&self, _: Request<CacheBatchSetRequest>) -> Result<Response<CacheBatchSetResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }

    async fn delete(&self, _: Request<CacheDeleteRequest>) -> Result<Response<CacheDeleteResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }

    async fn batch_delete(
        &self,
        _: Request<CacheBatchDeleteRequest>,
    ) -> Result<Response<CacheBatchDeleteResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }

    async fn get_or_lease(
        &self,
        _: Request<CacheGetOrLeaseRequest>,
    ) -> Result<Response<CacheGetOrLeaseResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }

    async fn fill(&self, _: Request<CacheFillRequest>) -> Result<Response<CacheFillResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }

    async fn give_up(&self, _: Request<CacheGiveUpRequest>) -> Result<Response<CacheGiveUpResponse>, Status> {
        Err(Status::unimplemented("only Get is measured"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).ok_or("usage: bare PORT")?.parse()?;
    let value = Bytes::from(vec![b'v'; 256]);
    Server::builder()
        .add_service(CacheServer::new(Bare { value }))
        .serve(SocketAddr::from(([127, 0, 0, 1], port)))
        .await?;
    Ok(())
}
