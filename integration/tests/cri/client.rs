//! CRI over its socket, one call at a time, and the streams that a server offers for exec, attach and port-forward.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use davit_integration::net::PrivateNet;
use k8s_cri::v1::LinuxContainerResources;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tungstenite::{Message, WebSocket};

/// A connection to the runtime service. Its calls block.
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    client: RuntimeServiceClient<Channel>,
}

/// A memory limit in bytes, microseconds of processor time in 100 ms, and 512 shares of it.
pub fn limits(memory: i64, quota: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_quota: quota,
        cpu_period: 100_000,
        cpu_shares: 512,
        ..Default::default()
    }
}

/// What a refused call answers.
pub type Status = tonic::Status;

impl Cri {
    pub fn connect(socket: &Path) -> Result<Cri> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = runtime.block_on(endpoint.timeout(Duration::from_secs(120)).connect())?;
        // The output of ExecSync may have 16 MiB of each kind.
        let client = RuntimeServiceClient::new(channel).max_decoding_message_size(40 << 20);
        Ok(Cri { runtime, client })
    }
}

/// A method for each call, named as the client's.
macro_rules! calls {
    ($($name:ident($request:ident) -> $reply:ident;)*) => {
        impl Cri {
            $(pub fn $name(&mut self, request: k8s_cri::v1::$request) -> Result<k8s_cri::v1::$reply, Status> {
                self.runtime.block_on(self.client.$name(request)).map(tonic::Response::into_inner)
            })*
        }
    };
}

calls! {
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    create_container(CreateContainerRequest) -> CreateContainerResponse;
    start_container(StartContainerRequest) -> StartContainerResponse;
    stop_container(StopContainerRequest) -> StopContainerResponse;
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    list_containers(ListContainersRequest) -> ListContainersResponse;
    container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    exec(ExecRequest) -> ExecResponse;
    attach(AttachRequest) -> AttachResponse;
    port_forward(PortForwardRequest) -> PortForwardResponse;
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    status(StatusRequest) -> StatusResponse;
}

/// A stream of numbered channels over a WebSocket, as the Kubernetes API server's clients use (`v4.channel.k8s.io`).
pub struct Stream {
    socket: WebSocket<TcpStream>,
}

/// Standard input, output and error; (3 is the result as JSON;) the size of the terminal.
pub mod channel {
    pub const IN: u8 = 0;
    pub const OUT: u8 = 1;
    pub const SIZE: u8 = 4;
}

impl Stream {
    /// Opens the URL that Exec, Attach or PortForward has answered. `query` is added to it.
    pub fn open(net: &PrivateNet, url: &str, query: &str) -> Result<Stream> {
        let address = url.strip_prefix("http://").context("http")?;
        let host = address.split('/').next().context("host")?;
        let tcp = net.within(|| Ok(TcpStream::connect(host)?))?;
        tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
        let request = tungstenite::http::Request::builder()
            .uri(format!("ws://{address}{query}"))
            .header("Host", host)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", tungstenite::handshake::client::generate_key())
            .header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
            .body(())?;
        let (socket, _) = tungstenite::client(request, tcp)?;
        Ok(Stream { socket })
    }

    pub fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let message = [&[channel], data].concat();
        Ok(self.socket.send(Message::Binary(message.into()))?)
    }

    /// The next data that is not empty, with its channel; `None` once the server has closed.
    pub fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(data)) if data.len() > 1 => {
                    return Ok(Some((data[0], data[1..].to_vec())));
                }
                Ok(Message::Close(_)) => return Ok(None),
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    return Ok(None);
                }
                // The server closes without the words of the protocol.
                Err(tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                )) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Reads a channel until it has shown `word`.
    pub fn read_until(&mut self, channel: u8, word: &str) -> Result<String> {
        let mut seen = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&seen).into_owned();
            if text.contains(word) {
                return Ok(text);
            }
            let next = self.receive()?;
            ensure!(next.is_some(), "the stream ended before {word:?}; it showed {text:?}");
            seen.extend(next.filter(|(from, _)| *from == channel).map(|(_, data)| data).unwrap_or_default());
        }
    }

    /// Reads to the end: standard output, standard error, the result.
    pub fn rest(mut self) -> Result<[String; 3]> {
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        while let Some((channel, data)) = self.receive()? {
            if let Some(of) = all.get_mut(usize::from(channel).wrapping_sub(1)) {
                of.extend(data);
            }
        }
        Ok(all.map(|data| String::from_utf8_lossy(&data).into_owned()))
    }
}
