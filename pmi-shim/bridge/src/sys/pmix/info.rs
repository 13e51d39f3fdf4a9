//! Lists of attributes, which libpmix takes and hands out everywhere.

use super::Status;
use std::ffi::{c_void, CStr, CString};

/// The value of an attribute.
pub enum Value {
    /// `PMIX_STRING`
    Text(CString),
    /// `PMIX_UINT16`
    U16(u16),
    /// `PMIX_UINT32`
    U32(u32),
    /// `PMIX_PROC_RANK`
    Rank(u32),
    /// `PMIX_BOOL`
    Bool(bool),
    /// `PMIX_DATA_ARRAY` of attributes
    List(List),
}

impl Value {
    /// Text; what follows a NUL is dropped.
    pub fn text(text: impl Into<Vec<u8>>) -> Value {
        let mut bytes = text.into();
        bytes.retain(|&byte| byte != 0);
        Value::Text(CString::new(bytes).unwrap_or_default())
    }
}

/// A list that is being written.
pub struct List(*mut c_void);

impl Default for List {
    fn default() -> List {
        // SAFETY: it allocates an empty list, which is released below.
        List(unsafe { libpmix::PMIx_Info_list_start() })
    }
}

impl List {
    /// Adds an attribute.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn add(&mut self, key: &CStr, value: Value) -> Result<(), Status> {
        match value {
            Value::Text(text) => self.put(key, text.as_ptr().cast(), libpmix::PMIX_STRING),
            Value::U16(number) => self.put(key, (&raw const number).cast(), libpmix::PMIX_UINT16),
            Value::U32(number) => self.put(key, (&raw const number).cast(), libpmix::PMIX_UINT32),
            Value::Rank(rank) => self.put(key, (&raw const rank).cast(), libpmix::PMIX_PROC_RANK),
            Value::Bool(truth) => self.put(key, (&raw const truth).cast(), libpmix::PMIX_BOOL),
            Value::List(list) => {
                let array = Array::of(list)?;
                self.put(key, (&raw const array.0).cast(), libpmix::PMIX_DATA_ARRAY)
            }
        }
    }

    fn put(&mut self, key: &CStr, value: *const c_void, kind: u32) -> Result<(), Status> {
        // SAFETY: the list is live; key and value are too, the value is of the kind
        // that is said (see `add`), and all three are copied before it returns.
        let answer = unsafe {
            libpmix::PMIx_Info_list_add(
                self.0,
                key.as_ptr(),
                value,
                kind as libpmix::pmix_data_type_t,
            )
        };
        Status::check(answer)
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: made by PMIx_Info_list_start, and released only here.
        unsafe { libpmix::PMIx_Info_list_release(self.0) }
    }
}

/// The same as an array, as calls take it.
pub struct Array(libpmix::pmix_data_array_t);

impl Array {
    /// Converts a list.
    ///
    /// # Errors
    /// Memory ran out.
    pub fn of(list: List) -> Result<Array, Status> {
        let mut array = Array(libpmix::pmix_data_array_t {
            type_: libpmix::PMIX_INFO as libpmix::pmix_data_type_t,
            size: 0,
            array: std::ptr::null_mut(),
        });
        // SAFETY: the list is live and the array ours; the attributes are copied.
        let answer = unsafe { libpmix::PMIx_Info_list_convert(list.0, &mut array.0) };
        match Status::check(answer) {
            // An empty list is none.
            Err(Status(libpmix::PMIX_ERR_EMPTY)) => Ok(array),
            other => other.map(|()| array),
        }
    }

    pub(crate) fn start(&mut self) -> *mut libpmix::pmix_info_t {
        self.0.array.cast()
    }

    pub(crate) fn length(&self) -> usize {
        self.0.size
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: the contents were allocated by libpmix for this array, which alone
        // points to them.
        unsafe { libpmix::PMIx_Data_array_destruct(&mut self.0) }
    }
}
