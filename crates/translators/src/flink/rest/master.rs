//! Where a cluster's REST endpoint is.

use reqwest::Url;

use crate::flink::error::FlinkError;

/// The address of a REST endpoint. Two are equal if the same requests reach the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::flink) struct Master {
    /// `http` or `https`, with a path that is `/` or that of whatever stands before the endpoint, without a slash at its end.
    url: Url,
}

impl Master {
    /// Reads `HOST:PORT`, or a URL with `http` or `https`, with the path behind which the REST API is served if there is one.
    pub(in crate::flink) fn parse(given: &str) -> Result<Self, FlinkError> {
        let bad = |more| FlinkError::Address { given: without_credentials(given), more };
        let text = given.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "" => {
                // Without a port it would be that of HTTP, on which Flink does not listen.
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(_))) {
                    return Err(bad(""));
                }
                "http"
            }
            "http" => "http",
            "https" => "https",
            _ => return Err(bad("; of URLs, those with http and https are understood")),
        };
        if rest.starts_with('/') || rest.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(bad(""));
        }
        let mut url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| bad(""))?;
        if !url.username().is_empty() || url.password().is_some() || rest.contains('@') {
            return Err(bad("; a name and password do not belong there, see --flink-authorization-file"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("; behind the path, nothing is understood"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self { url })
    }

    /// As [`Self::parse`] reads it, with the port.
    pub(in crate::flink) fn address(&self) -> String {
        let scheme = if self.is_https() { "https://" } else { "" };
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{scheme}{host}:{port}{}", self.prefix())
    }

    pub(in crate::flink) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Of a request for `path`, which has a slash at its beginning and may have a query.
    pub(super) fn url_of(&self, path: &str) -> Url {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.url.clone();
        url.set_path(&format!("{}/v1{path}", self.prefix()));
        url.set_query(query);
        url
    }

    fn prefix(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }
}

/// What was given, without a name and password that stand before the host.
fn without_credentials(given: &str) -> String {
    match given.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(given: &str) -> String {
        Master::parse(given).unwrap_or_else(|error| panic!("{given}: {error}")).address()
    }

    #[test]
    fn addresses() {
        for (given, understood) in [
            ("flink:8081", "flink:8081"),
            (" http://flink:8081/ ", "flink:8081"),
            ("HTTP://Flink:8081", "flink:8081"),
            ("flink:80", "flink:80"),
            ("http://gateway/flink", "gateway:80/flink"),
            ("gateway:80/flink/", "gateway:80/flink"),
            ("[::1]:8081", "[::1]:8081"),
            ("https://gateway", "https://gateway:443"),
            ("https://gateway:8443", "https://gateway:8443"),
            ("https://gateway/flink/cluster-a/", "https://gateway:443/flink/cluster-a"),
        ] {
            assert_eq!(address(given), understood);
            assert_eq!(Master::parse(&address(given)).unwrap(), Master::parse(given).unwrap());
        }
        let request = |given: &str| Master::parse(given).unwrap().url_of("/jobs/1?mode=cancel").to_string();
        assert_eq!(request("flink:8081"), "http://flink:8081/v1/jobs/1?mode=cancel");
        assert_eq!(request("https://gateway/flink/"), "https://gateway/flink/v1/jobs/1?mode=cancel");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "flink",
            "[auto]",
            "[::1]",
            "flink:8081?x=1",
            "flink:8081#x",
            "a b:1",
            ":8081",
            "fl\nink:8081",
            "flink:99999",
            "https://",
            "https:///x",
            "http://:8081",
            "https:flink:8081",
            "https://flink:x",
            "ftp://flink:8081",
            "https://flink?x=1",
        ] {
            assert!(matches!(Master::parse(bad), Err(FlinkError::Address { .. })), "{bad}");
        }
        for bad in [
            "https://me:secret@flink",
            "me:secret@flink:8081",
            "https://me:secret@fl ink",
            "ftp://me:secret@x",
        ] {
            let told = Master::parse(bad).unwrap_err().to_string();
            assert!(!told.contains("secret"), "{told}");
        }
        let told = Master::parse("https://me:secret@flink").unwrap_err().to_string();
        assert!(told.contains("--flink-authorization-file"), "{told}");
    }

    /// What a cluster answers does not lead elsewhere.
    #[test]
    fn requests_stay_with_the_cluster() {
        let master = Master::parse("https://gateway/flink").unwrap();
        for path in ["/jars//other/run", "/jars/@other:1/run", "/jars/../../../x/run"] {
            let url = master.url_of(path);
            assert_eq!((url.scheme(), url.host_str(), url.port()), ("https", Some("gateway"), None));
        }
    }
}
