//! A port that stays ours: picked by the kernel, and held for as long as its owner lives.
//!
//! The socket is bound with SO_REUSEPORT and never listens. A component that sets the same option may bind and listen
//! beside it, as often as it is killed and started again; nobody else is given the port in between.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use rustix::{
    fd::OwnedFd,
    net::{self, AddressFamily, SocketFlags, SocketType, sockopt},
};

/// One held port on loopback.
#[derive(Debug)]
pub(super) struct Port {
    address: SocketAddr,
    _holder: OwnedFd,
}

impl Port {
    /// Takes a free one.
    pub(super) fn hold() -> anyhow::Result<Self> {
        let holder = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .context("cannot make a socket")?;
        sockopt::set_socket_reuseport(&holder, true).context("cannot share a port")?;
        net::bind(&holder, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("no free port on loopback")?;
        let address = net::getsockname(&holder).context("a bound socket has no address")?;
        Ok(Self {
            address: address.try_into().context("a bound socket has a strange address")?,
            _holder: holder,
        })
    }

    /// The address.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number alone, for flags.
    pub(super) fn number(&self) -> u16 {
        self.address.port()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn nobody_is_given_a_held_port() {
        let port = Port::hold().unwrap();
        let other = TcpListener::bind(port.address());
        assert_eq!(other.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
}
