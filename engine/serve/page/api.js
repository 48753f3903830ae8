// Requests to the server.  Addresses are relative: the token is part of the page's own.

export async function request(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer. Is fusematte serve still running?");
  }
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

// fetch cannot tell how far an upload is.
export function upload(address, file, onProgress) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.responseType = "json";
    call.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    call.onload = () =>
      call.status < 400 ? resolve(call.response) : reject(new Error(call.response.error.message));
    call.onerror = () => reject(new Error(`${file.name}: the upload was interrupted`));
    call.open("POST", address);
    call.send(file);
  });
}

export function checkSize(file, limit) {
  if (file.size > limit) {
    throw new Error(`${file.name}: is larger than the limit, ${limit / 2 ** 20} MB`);
  }
}
