//! Replies of the server as the types that commands promise. Strings stay slices of the read buffer, never copied.

use bytes::Bytes;
use fred::types::Resp3Frame as Frame;

/// A type that a reply can be read as; `None` if the reply has another form.
pub trait FromReply: Sized + Send + 'static {
    #[doc(hidden)]
    fn from_frame(frame: Frame) -> Option<Self>;

    /// Whether something was asked for that is not there.
    #[doc(hidden)]
    fn lacks(&self) -> bool {
        false
    }
}

impl FromReply for () {
    fn from_frame(_: Frame) -> Option<Self> {
        Some(())
    }
}

impl FromReply for i64 {
    fn from_frame(frame: Frame) -> Option<Self> {
        match frame {
            Frame::Number { data, .. } => Some(data),
            _ => None,
        }
    }
}

impl FromReply for bool {
    fn from_frame(frame: Frame) -> Option<Self> {
        i64::from_frame(frame).map(|n| n != 0)
    }
}

impl FromReply for Bytes {
    fn from_frame(frame: Frame) -> Option<Self> {
        match frame {
            Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } | Frame::VerbatimString { data, .. } => {
                Some(data)
            }
            _ => None,
        }
    }
}

impl<T: FromReply> FromReply for Option<T> {
    fn from_frame(frame: Frame) -> Option<Self> {
        match frame {
            Frame::Null => Some(None),
            frame => T::from_frame(frame).map(Some),
        }
    }

    fn lacks(&self) -> bool {
        self.as_ref().is_none_or(T::lacks)
    }
}

impl<T: FromReply> FromReply for Vec<T> {
    fn from_frame(frame: Frame) -> Option<Self> {
        match frame {
            Frame::Array { data, .. } => data.into_iter().map(T::from_frame).collect(),
            _ => None,
        }
    }

    fn lacks(&self) -> bool {
        self.iter().any(T::lacks)
    }
}

macro_rules! tuple {
    ($($item:ident),+) => {
        impl<$($item: FromReply),+> FromReply for ($($item,)+) {
            fn from_frame(frame: Frame) -> Option<Self> {
                let Frame::Array { data, .. } = frame else { return None };
                let mut items = data.into_iter();
                let tuple = ($($item::from_frame(items.next()?)?,)+);
                items.next().is_none().then_some(tuple)
            }
        }
    };
}

tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
